
// -- what follows the state of the search: its buttons, and whether there is anything to show --------------------
// FOLLOWS: the ids of the buttons and of the results. Sent as changes of those components they would cost more than all
// else in an update: Gradio copies all that is below a component whose visibility it is told.

function follow() {
  const told = host.firstElementChild;
  const { busy, shown } = told.dataset;
  const [run, stop, results] = FOLLOWS.map((id) => document.getElementById(id));
  if (run && busy) run.disabled = busy === "true";
  if (stop && busy) stop.disabled = busy !== "true";
  // Nothing told, nothing shown; while a search is awaited what was shown stays.
  if (results && (shown || !told.className)) results.toggleAttribute("data-shown", !!shown);
}

watch("value", follow);
// What stands below is put in place after this.
setTimeout(follow);
