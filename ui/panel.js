// A panel: builds props.value, an element of ui/render.py ([tag, attributes, children]), out of plain DOM calls.
// What did not change stays as it is, so that focus, open folds and what is hovered survive updates.

const TAGS = new Set(["div", "span", "p", "strong", "em", "h2", "h3", "dl", "dt", "dd", "ul", "ol", "li", "details",
  "summary", "table", "thead", "tbody", "tr", "th", "td", "button", "progress", "small", "hr", "br", "pre", "code", "s",
  "blockquote", "a", "mark"]);
const MATH = new Set(("math mi mn mo mtext ms mspace mrow mfrac msqrt mroot mstyle merror mpadded mphantom msub msup " +
  "msubsup munder mover munderover mmultiscripts mprescripts mtable mtr mtd menclose").split(" "));
const MATH_ATTRIBUTES = new Set(("class display displaystyle scriptlevel mathvariant stretchy fence form separator lspace " +
  "rspace minsize maxsize symmetric largeop movablelimits accent accentunder linethickness width height depth voffset " +
  "notation columnspan rowspan").split(" "));
const PLAIN = new Set(["class", "title", "role", "tabindex", "type", "scope", "value", "max", "disabled", "open", "lang", "download", "start"]);
const host = element.querySelector(".panel");
let current = null;

function put(dom, name, value) {
  if (name === "style") for (const key in value) key.startsWith("--") && dom.style.setProperty(key, value[key]);
  else if (name === "tokens") tokens(dom, value);
  else if (name === "href") { if (/^(?:data:|\/|#)/.test(value) && !value.startsWith("//")) dom.setAttribute("href", value); }
  else if (PLAIN.has(name) || name.startsWith("aria-") || name.startsWith("data-")) dom.setAttribute(name, value);
}

function build(node) {
  if (typeof node === "string") return document.createTextNode(node);
  const [tag, attributes, children] = node;
  if (MATH.has(tag)) {
    const dom = document.createElementNS("http://www.w3.org/1998/Math/MathML", tag);
    for (const name in attributes) if (MATH_ATTRIBUTES.has(name)) dom.setAttribute(name, attributes[name]);
    for (const child of children) dom.append(build(child));
    return dom;
  }
  const dom = document.createElement(TAGS.has(tag) ? tag : "span");
  for (const name in attributes) put(dom, name, attributes[name]);
  if (!attributes.tokens) for (const child of children) dom.append(build(child));
  return dom;
}

function patch(dom, old, fresh) {
  if (typeof old === "string" && typeof fresh === "string") {
    if (old !== fresh) dom.data = fresh;
    return;
  }
  const other = (name) => old[1][name] !== fresh[1][name];
  if (MATH.has(fresh[0]) && JSON.stringify(old) === JSON.stringify(fresh)) return;
  if (typeof old === "string" || typeof fresh === "string" || old[0] !== fresh[0] || MATH.has(fresh[0])
      || other("data-node") || other("data-key")) {
    dom.replaceWith(build(fresh));
    return;
  }
  for (const name in old[1]) if (!(name in fresh[1]) && name !== "open") dom.removeAttribute(name);
  for (const name in fresh[1]) {
    // Whether a fold is open is the person's business once it is there.
    if (name === "open" || old[1][name] === fresh[1][name]) continue;
    if (JSON.stringify(old[1][name]) !== JSON.stringify(fresh[1][name])) put(dom, name, fresh[1][name]);
  }
  if (fresh[1].tokens) return;
  const kept = [...dom.childNodes];
  fresh[2].forEach((child, i) => (i < old[2].length ? patch(kept[i], old[2][i], child) : dom.append(build(child))));
  kept.slice(fresh[2].length).forEach((extra) => extra.remove());
}

// -- tokens shaded by confidence, with their alternatives --------------------------------------------------

const alternatives = new WeakMap();
let bubble = null;

function tokens(dom, list) {
  dom.replaceChildren();
  dom.setAttribute("role", "group");
  list.forEach(([text, confidence, options], i) => {
    const token = document.createElement("span");
    token.className = "token";
    token.textContent = text;
    token.dataset.index = i;
    token.tabIndex = i === 0 ? 0 : -1;
    if (confidence !== null) {
      token.style.setProperty("--doubt", (1 - confidence).toFixed(3));
      if (confidence < 0.5) token.classList.add("is-unsure");
    }
    alternatives.set(token, { confidence, options });
    dom.append(token);
  });
}

function show(token) {
  hide();
  const { confidence, options } = alternatives.get(token);
  const panel = host.querySelector("[data-node]");
  bubble = document.createElement("div");
  bubble.className = "bubble";
  bubble.setAttribute("role", "tooltip");
  const words = token.parentElement.dataset;
  const head = document.createElement("div");
  head.className = "bubble-head";
  head.textContent = confidence === null ? "–" : `${words.confidence || ""} ${confidence.toFixed(2)}`;
  bubble.append(head);
  for (const [text, probability, id, chosen] of options) {
    const fork = words.fork && !chosen;
    const row = document.createElement(fork ? "button" : "div");
    row.className = "option" + (chosen ? " is-chosen" : "");
    const name = document.createElement("span");
    name.textContent = text === "" ? "∅" : text.replace(/\n/g, "↵").replace(/ /g, "␣");
    const bar = document.createElement("span");
    bar.className = "option-bar";
    bar.style.setProperty("--share", probability);
    const figure = document.createElement("span");
    figure.textContent = `${(100 * probability).toFixed(1)}%`;
    row.append(name, bar, figure);
    if (fork) {
      row.type = "button";
      row.title = words.forkHint || "";
      row.addEventListener("click", () => {
        hide();
        trigger("act", { action: "fork", node: panel && panel.dataset.node, index: Number(token.dataset.index), token: id });
      });
    }
    bubble.append(row);
  }
  host.append(bubble);
  const frame = host.getBoundingClientRect(), at = token.getBoundingClientRect();
  const left = Math.min(Math.max(0, at.left - frame.left), Math.max(0, frame.width - bubble.offsetWidth));
  bubble.style.left = `${left}px`;
  bubble.style.top = `${at.bottom - frame.top + 4}px`;
  token.classList.add("is-shown");
}

function hide() {
  host.querySelectorAll(".token.is-shown").forEach((token) => token.classList.remove("is-shown"));
  // Removing what has the focus calls this again.
  const gone = bubble;
  bubble = null;
  gone?.remove();
}

host.addEventListener("pointerover", (event) => {
  const token = event.target.closest(".token");
  if (token) show(token);
  else if (bubble && !event.target.closest(".bubble") && !event.target.closest(".tokens")) hide();
});
host.addEventListener("pointerleave", hide);
host.addEventListener("focusin", (event) => {
  const token = event.target.closest(".token");
  if (token) show(token);
});
host.addEventListener("focusout", (event) => {
  if (!event.relatedTarget?.closest?.(".bubble, .token")) hide();
});
host.addEventListener("keydown", (event) => {
  if (event.key === "Escape") return hide();
  const token = event.target.closest(".token");
  if (!token) return;
  const list = token.parentElement.children, at = Number(token.dataset.index);
  const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: list.length - 1 }[event.key];
  if (event.key === "Enter" || event.key === "ArrowDown") {
    const option = bubble?.querySelector("button");
    if (option) { option.focus(); event.preventDefault(); }
    return;
  }
  if (next === undefined || !list[next]) return;
  event.preventDefault();
  token.tabIndex = -1;
  list[next].tabIndex = 0;
  list[next].focus();
});

// -- what belongs together: elements with the same data-link -------------------------------------------------

function link(event) {
  const chosen = event.target.closest?.("[data-link]")?.dataset.link;
  for (const part of host.querySelectorAll("[data-link]")) part.classList.toggle("is-linked", part.dataset.link === chosen);
}
for (const name of ["pointerover", "focusin"]) host.addEventListener(name, link);
host.addEventListener("pointerleave", link);

// -- buttons ----------------------------------------------------------------------------------------------

host.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (!button) return;
  const panel = button.closest("[data-node]");
  if (button.dataset.act === "copy") {
    const text = host.querySelector(button.dataset.of)?.textContent || "";
    navigator.clipboard?.writeText(text).then(() => button.classList.add("is-done"), () => {});
    return;
  }
  const data = { action: button.dataset.act, node: panel ? panel.dataset.node : null };
  if (button.dataset.of) data.of = button.dataset.of;
  trigger("act", data);
});

function draw() {
  const copy = (props.value && typeof props.value === "string" ? JSON.parse(props.value) : props.value) || ["div", {}, []];
  const focusedToken = bubble && host.querySelector(".token.is-shown");
  try {
    if (current === null || !host.firstChild) host.replaceChildren(build(copy));
    else patch(host.firstChild, current, copy);
  } catch (problem) {
    // What a browser's extension moved about is built anew.
    host.replaceChildren(build(copy));
  }
  if (focusedToken && !focusedToken.isConnected) hide();
  current = copy;
}

watch("value", draw);
draw();
