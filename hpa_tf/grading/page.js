// The page: keys and buttons -> decisions; the server's answers -> what is shown. No decision is taken to be saved
// before the server has said so, and the next cell is shown only then.

import { CHANNELS, CHANNEL_MEANING, Cells, Client, PLAIN, SURROUNDINGS, draw } from "./cells.js";

const AHEAD = 8; // cells kept ready
const GRID_SIZE = 12;
const CONTEXT_DELAY = 120; // ms on a cell before its image is asked for: a fast grader does not wait for any
const GRADES = { 1: "surely not", 2: "probably not", 3: "unsure", 4: "probably", 5: "surely" };
const NOT_SEEN = "This cell cannot be shown, so it cannot be graded: skip it with s.";
const NO_ANSWER = "The program did not answer for this cell: reload the page.";
const KEYS = [
  ["1 - 5", "grade the cell; the next one follows"],
  ["Shift + 1 - 5", "in the grid: grade every cell that is left; in the row above the letters also where digits are typed with Shift; where Shift + a digit types +, with the number pad"],
  ["s, Space", "skip"],
  ["u, Backspace, Ctrl + z", "undo the last decision"],
  ["←, →", "back to decided cells, and forward; a grade there corrects. In the grid: choose a cell"],
  ["g", "the protein (green) alone, and back"],
  ["c", "red, green and blue"],
  ["r, Shift + g, b, y", "one channel on or off"],
  ["+, −", "brightness"],
  ["[, ]", "gamma"],
  ["0", "display as it was at first"],
  ["m", "surroundings: dim, black, full"],
  ["o", "outline of the cell"],
  ["i", "brightness as in its image: dim cells stay dim"],
  ["d", "one cell or a grid"],
  ["v", "review what was graded"],
  ["?", "this list"],
];

const $ = (id) => document.getElementById(id);
const token = location.hash.slice(1) || sessionStorage.getItem("grading-token") || "";
sessionStorage.setItem("grading-token", token);
addEventListener("hashchange", () => location.reload()); // the address of the program that was started again
const client = new Client(token);
const cells = new Cells(client);

let state = null; // the server's last word
let look = { ...PLAIN, ...JSON.parse(localStorage.getItem("grading-look") || "{}") };
let before = null; // channels before "green alone"
const controls = []; // functions that make a control of the display show the look
let view = "one"; // one, grid or review
let shown = []; // {row, cell, picture, tile, mark, item, decided, broken}: what is on the stage; broken: why it is not seen, or ""
let chosen = 0; // index in shown
let back = 0; // decisions back from the newest; 0 = the queue
let busy = false;
let waiting = null; // {view, event}: the view that was asked for while an action ran
let since = 0; // when the cell was painted
let contextTimer = 0;
let page = { offset: 0, limit: 48, total: 0 };

function make(tag, properties = {}, ...children) {
  const { data, aria, ...plain } = properties;
  const element = Object.assign(document.createElement(tag), plain);
  Object.assign(element.dataset, data);
  for (const [name, value] of Object.entries(aria || {})) element.setAttribute(`aria-${name}`, value);
  element.append(...children);
  return element;
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").className = bad ? "bad" : "";
}

// -- showing ----------------------------------------------------------------------------------------------------------

function painted() {
  return new Promise((resolve) => {
    requestAnimationFrame(() => {
      const channel = new MessageChannel(); // its message comes after the frame
      channel.port1.onmessage = () => resolve(performance.now());
      channel.port2.postMessage(null);
    });
  });
}

function tileOf(row, item) {
  const picture = make("canvas", { data: { row } });
  const mark = make("span", { className: "mark" });
  const tile = make("figure", { className: "tile" }, picture, mark);
  return { row, item, picture, tile, mark, cell: null, decided: false, broken: "" };
}

// Draw a cell; what is wrong with one that cannot be shown stands in its place.
async function fill(entry) {
  try {
    entry.cell = await cells.load(entry.row);
    draw(entry.picture, entry.cell, look);
  } catch (error) {
    const text = make("p", { className: "broken", textContent: error.message, data: { row: entry.row } });
    entry.picture.replaceWith(text);
    Object.assign(entry, { picture: text, broken: error.lost ? NO_ANSWER : NOT_SEEN });
  }
}

async function show(rows, item = null) {
  const entries = rows.map((row) => tileOf(row, item));
  await Promise.all(entries.map(fill)); // nothing on the stage changes before everything is drawn
  $("stage").className = view === "grid" ? "grid" : "one";
  if (view === "grid") {
    $("stage").replaceChildren(...entries.map((entry) => entry.tile));
    entries.forEach((entry, index) => (entry.tile.onclick = () => choose(index)));
  } else {
    const [{ cell, picture }] = entries;
    const notes = [cell?.label, cell?.score];
    const text = notes.some((note) => note !== undefined) ? `label ${notes[0] ?? "unknown"}, score ${notes[1] ?? "unknown"}` : "";
    const was = item ? make("span", { className: "was", textContent: `was: ${item.grade ?? "skipped"}` }) : "";
    $("stage").replaceChildren(make("figure", {}, picture, make("figcaption", { textContent: text })), was);
  }
  shown = entries;
  choose(0);
}

function choose(index) {
  chosen = Math.max(0, Math.min(index, shown.length - 1));
  shown.forEach((entry, at) => entry.tile.classList.toggle("chosen", at === chosen));
  const entry = shown[chosen];
  clearTimeout(contextTimer);
  if (entry && view !== "review") contextTimer = setTimeout(() => showContext(entry), CONTEXT_DELAY);
}

async function showContext(entry) {
  try {
    const picture = await client.ask(`api/context/${entry.row}`, "blob");
    if (shown[chosen] !== entry) return;
    URL.revokeObjectURL($("context").src);
    $("context").src = URL.createObjectURL(picture);
    $("context").dataset.row = entry.row;
    $("context-text").textContent = entry.cell ? `${entry.cell.image_id}, cell ${entry.cell.cell}` : "";
  } catch (error) {
    $("context-text").textContent = error.message;
  }
}

function showState() {
  const { name, total, done, counts, per_minute: rate, minutes_left: left, kappa, pairs } = state;
  document.title = `Grading: ${name}`;
  $("class-name").textContent = `${state.class} ${name}`;
  $("bar").style.width = `${(100 * done) / Math.max(1, total)}%`;
  $("progress-text").textContent = `${done} of ${total}`;
  const facts = [state.grader, rate ? `${rate.toFixed(0)} a minute` : "", left ? `${duration(left)} left` : ""];
  facts.push(pairs ? `self-agreement ${kappa === null ? "not defined" : kappa.toFixed(2)} (${pairs} repeats)` : "");
  facts.push(state.blinded ? "blinded" : "label shown");
  $("facts").textContent = facts.filter(Boolean).join(" · ");
  for (const grade of Object.keys(GRADES)) $(`count-${grade}`).textContent = counts[grade];
}

function duration(minutes) {
  return minutes < 90 ? `${Math.ceil(minutes)} min` : `${(minutes / 60).toFixed(1)} h`;
}

// Show what comes next in the queue and fetch what follows.
async function advance() {
  showState();
  back = 0;
  const rows = state.upcoming.slice(0, view === "grid" ? GRID_SIZE : 1);
  if (rows.length) await show(rows);
  else {
    shown = [];
    $("stage").replaceChildren(make("p", { textContent: "Every cell of the queue is decided. Review them with v." }));
  }
  for (const row of state.upcoming.slice(0, view === "grid" ? 2 * GRID_SIZE : AHEAD)) cells.load(row, false);
}

async function showExamples() {
  const { source, rows } = await client.get("api/examples");
  $("examples-source").textContent = rows.length ? source : "none yet: cells that you grade 5 will be here";
  const entries = rows.map((row) => tileOf(row, null));
  $("examples").replaceChildren(...entries.map((entry) => entry.picture));
  examples = entries;
  for (const entry of entries) await fill(entry);
}
let examples = [];

// -- deciding ---------------------------------------------------------------------------------------------------------

// Run one action at a time; what fails is said, and the cell stays.
let filtersChanged = false;
async function alone(action, event) {
  if (busy) return;
  busy = true;
  try {
    say("");
    await action();
    const now = await painted();
    since = now;
    if (event) performance.measure("key to paint", { start: event.timeStamp, end: now });
  } catch (error) {
    say(error.message, true);
  } finally {
    busy = false;
    if (waiting) setView(waiting.view, waiting.event);
    else if (filtersChanged) showFiltered(); // changed while the action ran
  }
}

function showFiltered() {
  filtersChanged = false;
  page.offset = 0;
  return alone(showReview);
}

async function save(path, value) {
  try {
    return await client.post(path, value);
  } catch (error) {
    throw new Error(`Not saved: ${error.message}`);
  }
}

function seconds() {
  return since ? (performance.now() - since) / 1000 : null;
}

// Say why a cell that is not seen cannot be decided so, or "": one of a damaged record may be skipped.
const refusal = ({ broken }, grade) => (grade === null && broken === NOT_SEEN ? "" : broken);

const decide = (grade, event, all = false) =>
  alone(async () => {
    if (view === "review" || back) return correct(grade);
    const open = shown.filter((entry) => !entry.decided);
    const wanted = all ? open : [shown[chosen]].filter((entry) => entry && !entry.decided);
    const entries = wanted.filter((entry) => !refusal(entry, grade));
    if (!entries.length) return wanted.length && say(refusal(wanted[0], grade), true);
    state = await save("api/grade", { rows: entries.map((entry) => entry.row), grade, seconds: seconds() });
    if (view === "one" || entries.length === open.length) return advance();
    showState();
    entries.forEach((entry) => mark(entry, grade));
    const next = [...shown.keys()].map((step) => (chosen + step) % shown.length).find((index) => !shown[index].decided);
    choose(next);
  }, event);

function mark(entry, grade) {
  entry.decided = true;
  entry.tile.classList.add("decided");
  entry.mark.textContent = grade ?? "skipped";
}

async function correct(grade) {
  const entry = shown[chosen];
  if (!entry) return;
  const refused = refusal(entry, grade);
  if (refused) return say(refused, true);
  state = await save("api/correct", { number: entry.item.number, grade });
  showState();
  if (view === "review") {
    const kept = chosen;
    await showReview();
    choose(kept);
  } else await goBack(back - 1);
}

const undo = (event) =>
  alone(async () => {
    state = await save("api/undo", {});
    if (view === "review") return showReview();
    await advance();
    say(state.undone === null ? "Nothing to undo." : "Undone.");
  }, event);

async function goBack(steps) {
  if (steps <= 0) return advance();
  const { items, total } = await client.get(`api/graded?offset=${steps - 1}&limit=1`);
  if (!items.length) return say(`There are only ${total} decisions.`);
  back = steps;
  await show([items[0].row], items[0]);
  say(`Decision ${total - steps + 1} of ${total}: press a grade to correct it, → to go on.`);
}

// -- review -----------------------------------------------------------------------------------------------------------

async function showReview() {
  showState();
  const filter = new URLSearchParams($("filter-grade").value);
  filter.set("text", $("filter-text").value);
  filter.set("offset", page.offset);
  filter.set("limit", page.limit);
  const { items, total } = await client.get(`api/graded?${filter}`);
  page.total = total;
  $("review-count").textContent = total ? `${page.offset + 1} to ${page.offset + items.length} of ${total}` : "none";
  shown = items.map((item) => tileOf(item.row, item));
  shown.forEach((entry, index) => {
    const { item } = entry;
    const notes = [item.grade ?? "skipped", item.repeat ? "repeat" : "", item.corrected ? "corrected" : ""];
    entry.mark.textContent = item.grade ?? "–";
    entry.tile.append(make("figcaption", { textContent: `${notes.filter(Boolean).join(", ")} · ${item.image_id}, cell ${item.cell}` }));
    entry.tile.onclick = () => choose(index);
  });
  $("graded").replaceChildren(...shown.map((entry) => entry.tile));
  choose(0);
  shown.forEach(fill);
}

// Change the view and its content together: at once, or when the action that runs has ended.
function setView(wanted, event) {
  waiting = busy ? { view: wanted, event } : null;
  if (busy || !state) return;
  view = wanted;
  $("grading").hidden = view === "review";
  $("review").hidden = view !== "review";
  $("mode-button").textContent = view === "grid" ? "One cell" : "Grid";
  $("review-button").textContent = view === "review" ? "Grade" : "Review";
  page.offset = 0;
  filtersChanged = false;
  alone(view === "review" ? showReview : advance, event);
}

const switchView = (name, event) => setView((waiting?.view || view) === name ? "one" : name, event);

// -- display ----------------------------------------------------------------------------------------------------------

function setLook(change) {
  look = { ...look, ...change };
  localStorage.setItem("grading-look", JSON.stringify(look));
  for (const entry of [...shown, ...examples]) if (entry.cell) draw(entry.picture, entry.cell, look);
  showLook();
}

const showLook = () => controls.forEach((show) => show());

// Make the controls of the display, once: one that is replaced loses its focus, and a slider the mouse that drags it.
function makeLook() {
  const button = (text, pressed, onclick, title = "") => {
    const made = make("button", { onclick, title });
    controls.push(() => {
      made.textContent = text();
      made.setAttribute("aria-pressed", pressed());
    });
    return made;
  };
  const slider = (name, min, max) => {
    const input = make("input", { type: "range", min, max, step: 0.05, aria: { label: name },
      oninput: () => setLook({ [name]: Number(input.value) }) });
    const number = make("span");
    controls.push(() => {
      input.value = look[name];
      number.textContent = look[name].toFixed(2);
    });
    return [make("span", { textContent: name }), input, number];
  };
  const row = (...children) => make("div", { className: "row" }, ...children);
  const channel = (index) => button(() => CHANNELS[index], () => look.channels[index], () => toggle(index), CHANNEL_MEANING[index]);
  const flag = (text, name) => button(() => text, () => look[name], () => setLook({ [name]: !look[name] }));
  $("look").append(
    row(button(() => "green alone", isGreenAlone, greenAlone), button(() => "RGB", () => false, plainChannels)),
    row(...[0, 1, 2, 3].map(channel)),
    ...slider("brightness", 0.2, 5),
    ...slider("gamma", 0.3, 3),
    row(button(() => `surroundings ${look.surroundings}`, () => look.surroundings !== "black", surroundings),
      flag("outline", "outline"), flag("as in image", "relative")),
  );
}

const toggle = (index) => setLook({ channels: look.channels.map((on, at) => (at === index ? !on : on)) });
const scale = (name, factor) => setLook({ [name]: Math.min(5, Math.max(0.2, look[name] * factor)) });

const isGreenAlone = () => look.channels.every((on, index) => on === (index === 1));
const plainChannels = () => setLook({ channels: PLAIN.channels });

function greenAlone() {
  const channels = isGreenAlone() ? before || PLAIN.channels : [false, true, false, false];
  before = look.channels;
  setLook({ channels });
}

function surroundings() {
  const names = Object.keys(SURROUNDINGS);
  setLook({ surroundings: names[(names.indexOf(look.surroundings) + 1) % names.length] });
}

// -- keys -------------------------------------------------------------------------------------------------------------

function move(step, event) {
  if (view === "one") return alone(() => goBack(Math.max(0, back - step)), event);
  choose(chosen + step);
  shown[chosen]?.tile.scrollIntoView({ block: "nearest" });
}

const rowLength = () => (view === "review" ? getComputedStyle($("graded")).gridTemplateColumns.split(" ").length : 4);
const ACTIONS = {
  s: (event) => decide(null, event),
  " ": (event) => decide(null, event),
  u: undo,
  Backspace: undo,
  ArrowLeft: (event) => move(-1, event),
  ArrowRight: (event) => move(1, event),
  ArrowUp: (event) => view !== "one" && move(-rowLength(), event),
  ArrowDown: (event) => view !== "one" && move(rowLength(), event),
  g: greenAlone,
  G: () => toggle(1),
  c: plainChannels,
  r: () => toggle(0),
  b: () => toggle(2),
  y: () => toggle(3),
  "+": () => scale("brightness", 1.15),
  "=": () => scale("brightness", 1.15),
  "-": () => scale("brightness", 1 / 1.15),
  "[": () => scale("gamma", 1 / 1.1),
  "]": () => scale("gamma", 1.1),
  0: () => setLook(PLAIN),
  m: surroundings,
  o: () => setLook({ outline: !look.outline }),
  i: () => setLook({ relative: !look.relative }),
  d: (event) => switchView("grid", event),
  v: (event) => switchView("review", event),
  Escape: (event) => setView("one", event),
  "?": () => $("help").showModal(),
};

// Return the grade that a key stands for, or 0. The row of digits counts by its places: where Shift types the digits
// (AZERTY), it still tells one cell from all. But what is listed and typed with Shift and a digit (Swiss: +) is that.
function gradeOf({ key, code, shiftKey }) {
  const [, block, digit] = /^(Digit|Numpad)([1-5])$/.exec(code) || [];
  if (block === "Digit" && shiftKey && Object.hasOwn(ACTIONS, key)) return 0;
  if (block === "Digit" || (block && shiftKey)) return Number(digit);
  return /^[1-5]$/.test(key) ? Number(key) : 0;
}

document.addEventListener("keydown", (event) => {
  if (event.repeat || $("help").open || event.target.matches("input[type=search], select")) return;
  if (event.key === " " && event.target.matches("button")) return; // the browser clicks the button
  if (event.key.startsWith("Arrow") && event.target.matches("input[type=range]")) return; // and moves the slider
  if (event.ctrlKey || event.metaKey || event.altKey) {
    if (event.key === "z" && event.ctrlKey) {
      event.preventDefault();
      undo(event);
    }
    return;
  }
  const grade = gradeOf(event);
  if (grade) decide(grade, event, event.shiftKey && view === "grid");
  else if (Object.hasOwn(ACTIONS, event.key)) ACTIONS[event.key](event);
  else return;
  event.preventDefault();
});

// What the mouse has used does not keep the focus: Space goes on skipping, and arrows go back and forward.
document.addEventListener("click", (event) => {
  if (event.detail && document.activeElement.matches("button, input[type=range]")) document.activeElement.blur();
});

// -- start ------------------------------------------------------------------------------------------------------------

for (const [grade, meaning] of Object.entries(GRADES)) {
  const button = make("button", { onclick: (event) => decide(Number(grade), event) }, make("b", { textContent: grade }), meaning,
    make("span", { className: "count", id: `count-${grade}` }));
  $("grades").append(button);
}
for (const [keys, meaning] of KEYS) {
  const each = keys.split(", ").flatMap((key) => [make("kbd", { textContent: key }), " "]);
  $("keys").append(make("tr", {}, make("td", {}, ...each), make("td", { textContent: meaning })));
}
$("mode-button").onclick = (event) => switchView("grid", event);
$("review-button").onclick = (event) => switchView("review", event);
$("help-button").onclick = () => $("help").showModal();
$("filters").onsubmit = (event) => event.preventDefault();
$("filter-grade").onchange = $("filter-text").oninput = () => {
  filtersChanged = true;
  if (!busy) showFiltered();
};
$("newer").onclick = () => alone(() => ((page.offset = Math.max(0, page.offset - page.limit)), showReview()));
$("older").onclick = () => alone(() => ((page.offset += page.offset + page.limit < page.total ? page.limit : 0), showReview()));
makeLook();
showLook();
alone(async () => {
  state = await client.get("api/state");
  await advance();
}).then(() => state && showExamples().catch((error) => say(error.message, true)));
