"""What happens in a run: jobs and what comes back of them, the folder that is written, what is known and what is not.

The function ``acutance.run`` has this package's name: write ``from acutance.run.jobs import Job``, never
``import acutance.run.jobs as jobs``, which looks for ``jobs`` in the function.
"""
