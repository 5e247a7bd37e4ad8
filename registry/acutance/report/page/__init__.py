"""The files of a report: pictures as PNG and PDF, tables as Markdown and LaTeX, the HTML page."""
