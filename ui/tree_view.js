// The live tree. Runs once a mount as the body of a function of (element, props, trigger, watch).
// Draws props.value (see ui/render.py, tree_payload) as an SVG; every text goes through textContent.
// Wide: left to right, with pan and zoom. Narrow: an outline that the page scrolls.

const NS = "http://www.w3.org/2000/svg";
const WIDTH = 204, HEIGHT = 64, GAP_X = 46, GAP_Y = 14, PILL = 30, ROOT = 30;
const NARROW = 560, SMALLEST = 0.62, LARGEST = 2.5;
const CIVIDIS = [
  [0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115],
  [138, 134, 120], [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56],
];

const box = element.querySelector(".tree");
const stage = box.querySelector(".tree-stage");
const toolbar = box.querySelector(".tree-toolbar");
const svg = document.createElementNS(NS, "svg");
const scene = document.createElementNS(NS, "g");
const edgeLayer = document.createElementNS(NS, "g");
const nodeLayer = document.createElementNS(NS, "g");
svg.append(scene);
scene.append(edgeLayer, nodeLayer);
for (const layer of [svg, scene, edgeLayer, nodeLayer]) layer.setAttribute("role", "presentation");
stage.append(svg);

let payload = null;      // what is drawn
let places = new Map();  // id -> {x, y, w, h, node, level}
let order = [];          // ids, depth first: the order of Up and Down
let drawn = new Map();   // id -> {group, key}
let edges = new Map();
let view = { x: 0, y: 0, k: 1 };
let chosen = false;      // a person has panned or zoomed: the view is theirs
let focused = "root";
let narrow = false;
let room;                // of the stage, kept by an observer: asking it while drawing would lay out the page at once
const measure = () => (room = { width: stage.clientWidth, height: stage.clientHeight });
measure();

const make = (tag, attributes, parent) => {
  const made = document.createElementNS(NS, tag);
  for (const name in attributes) made.setAttribute(name, attributes[name]);
  if (parent) parent.append(made);
  return made;
};
// In an SVG whatever is set is laid out anew, also where it says the same.
const put = (dom, name, value) => dom.getAttribute(name) !== value && dom.setAttribute(name, value);
const word = (name) => (payload && payload.texts && payload.texts[name]) || name;

// -- texts ----------------------------------------------------------------------------------------------

const units = (character) => (character.codePointAt(0) > 0x2e7f ? 1.8 : 1);

function wrap(text, width, lines) {
  const rows = [];
  let row = "", used = 0, lastSpace = -1;
  const characters = Array.from(text);
  for (let i = 0; i < characters.length; i++) {
    const character = characters[i];
    if (used + units(character) > width) {
      if (rows.length === lines - 1) return [...rows, row.trimEnd() + "…"];
      if (lastSpace > 0 && character !== " ") {
        const kept = Array.from(row);
        rows.push(kept.slice(0, lastSpace).join(""));
        row = kept.slice(lastSpace + 1).join("");
      } else {
        rows.push(row);
        row = "";
      }
      used = Array.from(row).reduce((sum, c) => sum + units(c), 0);
      lastSpace = -1;
      if (character === " " && !row) continue;
    }
    if (character === " ") lastSpace = Array.from(row).length;
    row += character;
    used += units(character);
  }
  if (row || !rows.length) rows.push(row);
  return rows;
}

function cividis(share) {
  const at = Math.min(1, Math.max(0, share)) * (CIVIDIS.length - 1);
  const low = Math.floor(at), high = Math.min(low + 1, CIVIDIS.length - 1);
  const rgb = CIVIDIS[low].map((from, i) => Math.round(from + (CIVIDIS[high][i] - from) * (at - low)));
  const linear = rgb.map((c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  const luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  // The better of black and white by contrast.
  return { fill: `rgb(${rgb})`, ink: (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) ? "#000" : "#fff" };
}

const share = (value) => (payload.high > payload.low ? (value - payload.low) / (payload.high - payload.low) : 1);

function spoken(node) {
  const parts = [word("kind_" + node.kind) + ": " + (node.label || "…")];
  if (node.kind === "fold") parts[0] = word("folded").replace("{n}", node.count);
  if (node.kind === "ghost") parts.push(`${node.tokens} ${word("tokens")}`);
  else {
    parts.push(`${word("visits")} ${node.visits}`);
    if (node.value !== null && node.value !== undefined) parts.push(`${word("value")} ${node.value.toFixed(2)}`);
  }
  for (const state of ["best", "waiting", "pruned", "pinned"]) if (node[state]) parts.push(word(state));
  if (node.hidden) parts.push(word("hidden").replace("{n}", node.hidden));
  return parts.join(", ");
}

// -- layout ---------------------------------------------------------------------------------------------

function size(node) {
  if (node.kind === "root") return [2 * ROOT, 2 * ROOT];
  if (node.kind === "fold") return [WIDTH - 60, PILL];
  return [WIDTH, HEIGHT];
}

function layOut(nodes) {
  const children = new Map();
  const byId = new Map(nodes.map((node) => [node.id, node]));
  for (const node of nodes) {
    if (node.parent === null || !byId.has(node.parent)) continue;
    if (!children.has(node.parent)) children.set(node.parent, []);
    children.get(node.parent).push(node.id);
  }
  places = new Map();
  order = [];
  const stack = nodes.length ? [[nodes[0].id, 1]] : [];
  while (stack.length) {
    const [id, level] = stack.pop();
    const node = byId.get(id);
    const [w, h] = size(node);
    places.set(id, { x: 0, y: 0, w, h, node, level, children: children.get(id) || [] });
    order.push(id);
    for (const child of [...(children.get(id) || [])].reverse()) stack.push([child, level + 1]);
  }
  if (narrow) outline();
  else sideways();
}

function sideways() {
  let bottom = 0;
  const columns = new Map();
  for (const id of order) {
    const place = places.get(id);
    const parent = place.node.parent !== null && places.get(place.node.parent);
    place.x = parent ? parent.x + parent.w + GAP_X : 0;
    if (!place.children.length) {
      // A fold is lower than the thought before it, which stands in the same row.
      const row = Math.max(place.h, HEIGHT);
      place.y = bottom + (row - place.h) / 2;
      bottom += row + GAP_Y;
    }
  }
  // Parents stand in the middle of their children; children come later in `order`.
  for (let i = order.length - 1; i >= 0; i--) {
    const place = places.get(order[i]);
    if (!place.children.length) continue;
    const first = places.get(place.children[0]), last = places.get(place.children.at(-1));
    place.y = (first.y + first.h / 2 + last.y + last.h / 2) / 2 - place.h / 2;
  }
}

function outline() {
  const available = Math.max(240, room.width - 16);
  let bottom = 8;
  for (const id of order) {
    const place = places.get(id);
    const indent = Math.min(place.level - 1, 8) * 14;
    place.x = 8 + indent;
    place.y = bottom;
    if (place.node.kind !== "root") place.w = Math.min(available - indent, 420);
    bottom += place.h + 10;
  }
}

function curve(from, to) {
  if (narrow) {
    const x = from.x + Math.min(from.w / 2, 7), y = to.y + to.h / 2;
    return `M${x},${from.y + from.h} V${y - 6} q0,6 6,6 H${to.x}`;
  }
  const x1 = from.x + from.w, y1 = from.y + from.h / 2, x2 = to.x, y2 = to.y + to.h / 2;
  const middle = (x1 + x2) / 2;
  return `M${x1},${y1} C${middle},${y1} ${middle},${y2} ${x2},${y2}`;
}

// -- drawing --------------------------------------------------------------------------------------------

function tab(w, h) {
  const cut = 12;
  return `M0,0 H${w - cut} L${w},${cut} V${h} H0 Z`;
}

function hexagon(w, h) {
  const cut = 12;
  return `M${cut},0 H${w - cut} L${w},${h / 2} L${w - cut},${h} H${cut} L0,${h / 2} Z`;
}

function paint(group, place) {
  const { node, w, h } = place;
  group.replaceChildren();
  if (node.kind === "root") {
    make("circle", { class: "shape", cx: ROOT, cy: ROOT, r: ROOT }, group);
    make("text", { class: "root-mark", x: ROOT, y: ROOT - 2 }, group).textContent = "?";
    make("text", { class: "meta centred", x: ROOT, y: ROOT + 17 }, group).textContent =
      `${node.visits}`;
    return;
  }
  if (node.kind === "fold") {
    make("rect", { class: "shape", width: w, height: h, rx: h / 2 }, group);
    make("text", { class: "meta centred", x: w / 2, y: h / 2 + 4 }, group).textContent =
      "⋯ " + word("folded").replace("{n}", node.count);
    return;
  }
  if (node.kind === "reflection") make("path", { class: "shape", d: hexagon(w, h) }, group);
  else if (node.kind === "opening") make("path", { class: "shape", d: tab(w, h) }, group);
  else make("rect", { class: "shape", width: w, height: h, rx: node.kind === "answer" ? 4 : 12 }, group);
  if (node.kind === "answer") {
    make("rect", { class: "inner", x: 3.5, y: 3.5, width: w - 7, height: h - 7, rx: 2 }, group);
  }
  const inset = node.kind === "reflection" ? 18 : 12;
  const rows = node.kind === "ghost" ? tailRows(node.label, (w - 2 * inset) / 6.1) : wrap(node.label, (w - 2 * inset) / 6.1, 2);
  rows.forEach((row, i) => (make("text", { class: "words", x: inset, y: 19 + 15 * i }, group).textContent = row));
  const meta = make("text", { class: "meta", x: inset, y: h - 10 }, group);
  if (node.kind === "ghost") {
    meta.textContent = `${node.tokens} ${word("tokens")}`;
    return;
  }
  let facts = `${node.visits} ${word(node.visits === 1 ? "visit" : "visits")}`;
  if (node.pinned) facts = "★ " + facts;
  if (node.pruned) facts = word("pruned");
  if (node.hidden) facts += `  +${node.hidden}`;
  meta.textContent = facts;
  if (node.value !== null && node.value !== undefined) {
    const { fill, ink } = cividis(share(node.value));
    const x = w - inset - 40;
    make("rect", { class: "badge", x, y: h - 23, width: 40, height: 17, rx: 8.5, fill }, group);
    make("text", { class: "badge-text", x: x + 20, y: h - 10.5, fill: ink }, group).textContent = node.value.toFixed(2);
  }
}

// A rollout under way shows what it writes now: the end of its text.
function tailRows(text, width) {
  const rows = wrap(text, width, 99);
  return rows.slice(-2);
}

function draw() {
  payload = (props.value && typeof props.value === "string" ? JSON.parse(props.value) : props.value) || null;
  if (!payload?.nodes) payload = null;
  const nodes = payload ? payload.nodes : [];
  box.classList.toggle("is-empty", !nodes.length);
  box.classList.toggle("is-running", !!(payload && payload.running));
  narrow = room.width > 0 && room.width < NARROW;
  box.classList.toggle("is-outline", narrow);
  if (payload && payload.search !== box.dataset.search) {
    box.dataset.search = payload.search;
    chosen = false;
    focused = "root";
  }
  if (nodes.length) {
    stage.setAttribute("role", "tree");
    stage.setAttribute("aria-label", word("tree"));
  } else {
    stage.removeAttribute("role");
    stage.removeAttribute("aria-label");
  }
  layOut(nodes);
  if (!places.has(focused)) focused = "root";
  for (const [id, old] of drawn) if (!places.has(id)) { old.group.remove(); drawn.delete(id); }
  for (const [id, path] of edges) if (!places.has(id)) { path.remove(); edges.delete(id); }
  const scale = `${payload ? payload.low : 0},${payload ? payload.high : 1},${narrow}`;
  for (const id of order) {
    const place = places.get(id), node = place.node;
    let entry = drawn.get(id);
    if (!entry) {
      entry = { group: make("g", { role: "treeitem", "data-node": id, class: "fresh" }), key: "" };
      drawn.set(id, entry);
    }
    const key = JSON.stringify(node) + scale + place.w;
    if (entry.key !== key) {
      entry.key = key;
      const names = ["node", "kind-" + node.kind];
      for (const state of ["best", "waiting", "pruned", "pinned"]) if (node[state]) names.push("is-" + state);
      entry.group.setAttribute("class", names.join(" "));
      entry.group.setAttribute("aria-label", spoken(node));
      paint(entry.group, place);
    }
    put(entry.group, "aria-level", String(place.level));
    put(entry.group, "aria-selected", String(payload.selected === id));
    if (place.children.length) put(entry.group, "aria-expanded", "true");
    else if (node.hidden || node.kind === "fold") put(entry.group, "aria-expanded", "false");
    else entry.group.removeAttribute("aria-expanded");
    put(entry.group, "tabindex", id === focused ? "0" : "-1");
    put(entry.group, "transform", `translate(${place.x.toFixed(1)},${place.y.toFixed(1)})`);
    // Moving a focused element would blur it: only new ones are put in.
    if (!entry.group.isConnected) nodeLayer.append(entry.group);
    if (node.parent !== null && places.has(node.parent)) {
      let path = edges.get(id);
      if (!path) edges.set(id, (path = make("path", { fill: "none" }, edgeLayer)));
      put(path, "class", "edge" + (node.best ? " is-best" : "") + (node.kind === "ghost" ? " is-ghost" : ""));
      put(path, "d", curve(places.get(node.parent), place));
    }
  }
  legend();
  settle();
}

function legend() {
  const nodes = payload ? payload.nodes : [];
  const shown = nodes.filter((node) => node.kind !== "ghost").length;
  toolbar.querySelector(".count").textContent =
    payload && shown < payload.total ? word("shown").replace("{n}", shown).replace("{all}", payload.total) : "";
  for (const button of toolbar.querySelectorAll("button")) {
    button.setAttribute("aria-label", word(button.dataset.do));
    button.title = word(button.dataset.do);
  }
  const scale = toolbar.querySelector(".scale");
  const known = nodes.length > 0 && payload.high > payload.low;
  scale.style.visibility = known ? "visible" : "hidden";
  if (!known) return;
  scale.querySelector(".name").textContent = word("value");
  scale.querySelector(".low").textContent = payload.low.toFixed(2);
  scale.querySelector(".high").textContent = payload.high.toFixed(2);
}

// -- pan, zoom, fit -------------------------------------------------------------------------------------

function bounds() {
  let right = 0, low = Infinity, high = -Infinity;
  for (const place of places.values()) {
    right = Math.max(right, place.x + place.w);
    low = Math.min(low, place.y);
    high = Math.max(high, place.y + place.h);
  }
  return { right, low, high };
}

function settle() {
  if (!places.size || !room.width) return;
  if (narrow) {
    const { right, high } = bounds();
    svg.setAttribute("width", Math.max(right + 8, 100));
    svg.setAttribute("height", high + 12);
    scene.removeAttribute("transform");
    return;
  }
  put(svg, "width", String(room.width));
  put(svg, "height", String(room.height));
  if (!chosen) fit();
  else move();
}

function fit() {
  const { right, low, high } = bounds();
  const pad = 18, width = room.width, height = room.height;
  const k = Math.min(1.15, (width - 2 * pad) / right, (height - 2 * pad) / (high - low));
  view.k = Math.max(SMALLEST, k);
  // What is too large to be read whole is shown from its root.
  view.x = right * view.k + 2 * pad <= width ? (width - right * view.k) / 2 : pad;
  const root = places.get(order[0]);
  view.y = (high - low) * view.k + 2 * pad <= height
    ? (height - (high - low) * view.k) / 2 - low * view.k
    : height / 2 - (root.y + root.h / 2) * view.k;
  move();
}

function move() {
  put(scene, "transform", `translate(${view.x.toFixed(1)},${view.y.toFixed(1)}) scale(${view.k.toFixed(3)})`);
}

function zoom(factor, x = room.width / 2, y = room.height / 2) {
  if (narrow) return;
  const k = Math.min(LARGEST, Math.max(SMALLEST / 3, view.k * factor));
  view.x = x - (x - view.x) * (k / view.k);
  view.y = y - (y - view.y) * (k / view.k);
  view.k = k;
  chosen = true;
  move();
}

const pointers = new Map();
let dragged = false;
stage.addEventListener("pointerdown", (event) => {
  if (narrow || event.button !== 0) return;
  pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  dragged = false;
});
stage.addEventListener("pointermove", (event) => {
  const last = pointers.get(event.pointerId);
  if (!last || narrow) return;
  const dx = event.clientX - last.x, dy = event.clientY - last.y;
  if (!dragged && Math.hypot(dx, dy) < 4) return;
  if (!dragged) stage.setPointerCapture(event.pointerId);
  dragged = chosen = true;
  if (pointers.size === 2) {
    const [a, b] = [...pointers.values()];
    const before = Math.hypot(a.x - b.x, a.y - b.y);
    last.x = event.clientX;
    last.y = event.clientY;
    const after = Math.hypot(a.x - b.x, a.y - b.y);
    const frame = stage.getBoundingClientRect();
    if (before > 0) zoom(after / before, (a.x + b.x) / 2 - frame.left, (a.y + b.y) / 2 - frame.top);
    return;
  }
  view.x += dx;
  view.y += dy;
  last.x = event.clientX;
  last.y = event.clientY;
  move();
});
for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
  stage.addEventListener(name, (event) => pointers.delete(event.pointerId));
}
stage.addEventListener("wheel", (event) => {
  // A plain wheel scrolls the page; with Ctrl (or a pinch, which browsers report so) it zooms.
  if (narrow || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  const frame = stage.getBoundingClientRect();
  zoom(Math.exp(-event.deltaY / 300), event.clientX - frame.left, event.clientY - frame.top);
}, { passive: false });
toolbar.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.do === "fit") { chosen = false; settle(); }
  else zoom(button.dataset.do === "zoom_in" ? 1.25 : 0.8);
});

// -- choosing -------------------------------------------------------------------------------------------

function choose(id) {
  const place = places.get(id);
  if (!place) return;
  if (place.node.kind === "fold") return void trigger("node_unfold", { node_id: id });
  if (place.node.kind === "ghost") return;
  if (place.node.hidden && payload.selected === id) trigger("node_unfold", { node_id: id });
  for (const [other, entry] of drawn) entry.group.setAttribute("aria-selected", String(other === id));
  payload.selected = id;
  trigger("node_select", { node_id: id });
}

function focus(id) {
  if (!places.has(id)) return;
  drawn.get(focused)?.group.setAttribute("tabindex", "-1");
  focused = id;
  const { group } = drawn.get(id);
  group.setAttribute("tabindex", "0");
  group.focus({ preventScroll: !narrow });
  if (!narrow) reveal(places.get(id));
}

function reveal(place) {
  const pad = 24;
  const x = view.x + place.x * view.k, y = view.y + place.y * view.k;
  const right = x + place.w * view.k, low = y + place.h * view.k;
  const dx = x < pad ? pad - x : right > room.width - pad ? room.width - pad - right : 0;
  const dy = y < pad ? pad - y : low > room.height - pad ? room.height - pad - low : 0;
  if (!dx && !dy) return;
  view.x += dx;
  view.y += dy;
  chosen = true;
  move();
}

stage.addEventListener("click", (event) => {
  const group = event.target.closest("[data-node]");
  if (!group || dragged) return;
  focus(group.dataset.node);
  choose(group.dataset.node);
});
stage.addEventListener("keydown", (event) => {
  const group = event.target.closest("[data-node]");
  if (!group || event.altKey || event.ctrlKey || event.metaKey) return;
  const id = group.dataset.node, place = places.get(id), at = order.indexOf(id);
  const next = {
    ArrowDown: order[at + 1],
    ArrowUp: order[at - 1],
    ArrowLeft: place.node.parent,
    ArrowRight: place.children[0],
    Home: order[0],
    End: order.at(-1),
  };
  if (event.key === "Enter" || event.key === " ") choose(id);
  else if (event.key === "ArrowRight" && !place.children.length && (place.node.hidden || place.node.kind === "fold")) {
    trigger("node_unfold", { node_id: id });
  } else if (event.key in next) next[event.key] && focus(next[event.key]);
  else return;
  event.preventDefault();
});

// Hidden tabs have no width: size when shown.
new ResizeObserver(() => {
  measure();
  const now = room.width > 0 && room.width < NARROW;
  if (now !== narrow) draw();
  else settle();
}).observe(stage);
watch("value", draw);
draw();
