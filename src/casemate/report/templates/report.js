for (const button of document.querySelectorAll("[data-toggle]")) {
  const all = () => [...button.closest("section").querySelectorAll("details.case")];
  const name = () => { button.textContent = all().every(d => d.open) ? "Close all" : "Open all"; };
  button.hidden = false;
  button.addEventListener("click", () => {
    const open = !all().every(d => d.open);
    all().forEach(d => { d.open = open; });
    name();
  });
  all().forEach(d => d.addEventListener("toggle", name));
}
addEventListener("beforeprint", () => {
  for (const d of document.querySelectorAll("details:not([open])")) { d.dataset.closed = ""; d.open = true; }
});
addEventListener("afterprint", () => {
  for (const d of document.querySelectorAll("details[data-closed]")) { delete d.dataset.closed; d.open = false; }
});
