// A report inside of the page: props.value is {title, page}, a whole document as text.
// The frame may run the document's own drawings. It has no origin: it reaches neither the page nor the app.

const host = element.querySelector(".report");

function draw() {
  const value = props.value && typeof props.value === "string" ? JSON.parse(props.value) : props.value;
  if (!value) return host.replaceChildren();
  const frame = document.createElement("iframe");
  frame.setAttribute("sandbox", "allow-scripts");
  frame.setAttribute("referrerpolicy", "no-referrer");
  frame.title = value.title;
  // Its links to its own sections would lead to the app's page without this.
  frame.srcdoc = value.page.replace("<head>", '<head><base href="about:srcdoc">');
  host.replaceChildren(frame);
}

watch("value", draw);
draw();
