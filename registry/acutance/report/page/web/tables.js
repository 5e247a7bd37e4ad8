// Tables that sort by their headings, and texts that copy themselves.
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = html("button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("thead th").forEach(other => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = row => { const cell = row.cells[column]; return cell.dataset.v ?? cell.textContent; };
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const x = key(a), y = key(b), numeric = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
        return (numeric ? x - y : x.localeCompare(y)) * (up ? 1 : -1);
      });
      table.tBodies[0].append(...rows);
    });
  });
}

for (const text of document.querySelectorAll("pre.copy")) {
  const button = html("button", { type: "button", class: "copier" }, "Copy");
  text.before(button);
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(text);
    // Without permission the text stays selected, to be copied by hand.
    try { await navigator.clipboard.writeText(text.textContent); button.textContent = "Copied"; } catch { button.textContent = "Selected"; }
  });
}
