// A report inside of the page: props.value is {title, page}, a whole document as text.
// The frame may run the document's own drawings. It has no origin: it reaches neither the page nor the app. A link to a
// run file leads nowhere from there: the name of its run is told to the page instead, and the app opens what it knows.

const host = element.querySelector(".report");
const LINKS = `<script>addEventListener("click", (event) => {
  const link = event.target.closest("a[data-run]");
  if (!link) return;
  event.preventDefault();
  parent.postMessage({ run: link.dataset.run }, "*");
})</script>`;

function draw() {
  const value = props.value && typeof props.value === "string" ? JSON.parse(props.value) : props.value;
  if (!value) return host.replaceChildren();
  const frame = document.createElement("iframe");
  frame.setAttribute("sandbox", "allow-scripts");
  frame.setAttribute("referrerpolicy", "no-referrer");
  frame.title = value.title;
  // Its links to its own sections would lead to the app's page without this.
  frame.srcdoc = value.page.replace("<head>", '<head><base href="about:srcdoc">' + LINKS);
  host.replaceChildren(frame);
}

window.addEventListener("message", (event) => {
  const frame = host.querySelector("iframe");
  if (frame && event.source === frame.contentWindow && typeof event.data?.run === "string") {
    trigger("act", { action: "run", of: event.data.run });
  }
});
watch("value", draw);
draw();
