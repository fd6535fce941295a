
// -- a person's place in the queue: Gradio is told it, and shows it small and in English alone -----------------
// WORDS: by language the sentence, with {n} and {all}, and what to press to leave. Gradio's tracker is hidden (page.css)
// and read from here.

const frame = element.closest(".block");
const { sentence, leave } = WORDS[/^zh/i.test(navigator.language) ? "zh" : "en"];
const place = document.createElement("div");
place.className = "status is-waiting place";
place.setAttribute("role", "status");
for (const name of ["dot", "words"]) place.append(Object.assign(document.createElement("span"), { className: name }));
const out = Object.assign(document.createElement("button"), { type: "button", className: "quiet", textContent: leave });
out.addEventListener("click", () => trigger("act", { action: "leave" }));
place.append(out);

function showPlace() {
  const told = frame.querySelector("[data-testid=status-tracker]")?.textContent.match(/queue:\s*(\d+)\s*\/\s*(\d+)/);
  frame.classList.toggle("is-queued", !!told);
  if (!told) return place.remove();
  const words = sentence.replace("{n}", told[1]).replace("{all}", told[2]);
  const said = place.querySelector(".words");
  if (said.textContent !== words) said.textContent = words;
  if (!place.isConnected) host.before(place);
}

new MutationObserver(showPlace).observe(frame, { subtree: true, childList: true, characterData: true });
