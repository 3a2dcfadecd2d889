// Puts the page together: one state, what changes it, what is shown of it.

import { read, readImage, readMask, say, saveMask, unsaved, whenSaved } from "/static/api.js";
import { following, inTab, showList, TABS } from "/static/list.js";
import { listen, showKeys } from "/static/keys.js";
import { Mask, Outliner } from "/static/outline.js";
import { makeClasses, makeLabels, markClass, READER_COLOURS, showDrawn, showImage, showProgress, showWords } from "/static/panel.js";
import { Viewer } from "/static/viewer.js";

const $ = (id) => document.getElementById(id);
const READ_AHEAD = 10;

const state = { desk: null, tab: "todo", n: null, image: null, place: 0, words: null, asked: 0 };
const done = []; // what undo takes back: strokes here, all else at the desk
const ahead = new Map(); // pixels by image and place, the oldest first
const viewer = new Viewer($("canvas"));
let outliner;

const deciding = () => state.tab === "disputed";
const item = () => state.desk.images[state.n];
const drawable = () => state.desk.outlines && !deciding() && state.image && state.place === state.image.sequence.at;

// --- what goes wrong, and what is saved

function tell(text, bad = true) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
  $("notice").classList.toggle("bad", bad);
}

function standing() {
  const { desk } = state;
  tell(desk.closed ? "The study has gone on: what is said now is kept, but this run learns nothing from it." : "", false);
}

async function guarded(run) {
  try {
    return await run();
  } catch (error) {
    tell(error.message);
    return null;
  }
}

whenSaved((how) => {
  const words = { busy: "Saving…", saved: "Saved", bad: "Not saved" };
  $("saved").textContent = words[how];
  $("saved").className = `saved ${how}`;
});
window.addEventListener("beforeunload", (event) => unsaved() && event.preventDefault());

function take(answer) {
  if (answer.item) state.desk.images[answer.item.n] = answer.item;
  state.desk.progress = answer.progress;
  if (answer.item && state.image?.n === answer.item.n) Object.assign(state.image, answer.item);
  showProgress(state.desk);
  showList(state, go);
}

async function send(run) {
  const answer = await guarded(run);
  if (answer) {
    standing();
    take(answer);
  }
  return answer;
}

// --- opening an image

function pixels(n, place, digest) {
  const key = `${n}/${place}/${digest}`; // a file that changes meanwhile is read again
  if (!ahead.has(key)) {
    const reading = readImage(n, place);
    reading.catch(() => ahead.delete(key));
    ahead.set(key, reading);
    if (ahead.size > READ_AHEAD) ahead.delete(ahead.keys().next().value);
  }
  return ahead.get(key);
}

async function open(n) {
  const asked = ++state.asked;
  state.n = n;
  $("finished").hidden = n !== null;
  showList(state, go);
  if (n === null) return;
  await guarded(async () => {
    const [image, drawn, words] = await Promise.all([
      read(`/api/images/${n}`), state.desk.outlines ? readMask(n) : null,
      deciding() ? read(`/api/images/${n}/words`) : null,
    ]);
    const picture = await pixels(n, image.sequence.at, image.image_sha256);
    if (asked !== state.asked) return; // the reader is further already
    Object.assign(state, { image, words, place: image.sequence.at });
    viewer.show(picture);
    outliner.take(state.desk.outlines ? new Mask(image.height, image.width, drawn) : null);
    await showOthers(words);
    showAll();
    $("live").textContent = `Image of rank ${image.rank}. ${image.reason} ${image.mine ? `Your label: ${image.mine}.` : ""}`;
    const next = following(state.desk.images, state.tab, n, 1);
    if (next !== null && next !== n) readNext(next);
  });
}

async function readNext(n) {
  await read(`/api/images/${n}`).then((image) => pixels(n, image.sequence.at, image.image_sha256)).catch(() => {});
}

async function showOthers(words) {
  const { height, width } = state.image, found = [];
  for (const [i, { reader }] of (words?.outlines ?? []).entries()) {
    const mask = new Mask(height, width, await readMask(state.n, reader));
    found.push({ mask, colour: READER_COLOURS[i % READER_COLOURS.length] });
  }
  outliner.compare(found);
}

function showAll() {
  showImage(state.image, state.desk.labels, deciding(), state.words?.label);
  showWords(state.words, decide);
  showDrawn(outliner.mask, state.desk.classes);
  showFilm();
  $("outline").hidden = $("tools").hidden = !state.desk.outlines || deciding();
  $("skip").disabled = deciding();
  markTools();
}

// --- frames

function showFilm() {
  const { kind, names, at } = state.image.sequence;
  $("film").hidden = names.length < 2;
  $("frame").max = names.length - 1;
  $("frame").value = state.place;
  $("mark").style.left = `calc(8px + (100% - 16px) * ${at / Math.max(names.length - 1, 1)})`;
  const what = kind === "video" ? `frame ${names[state.place]}` : "same patient";
  $("filmtext").textContent = `${what} · ${state.place + 1} of ${names.length}`;
  const away = state.place !== at;
  $("home").hidden = !away;
  $("home").textContent = `Only to compare: back to ${kind === "video" ? "frame" : "no."} ${names[at]} (C)`;
  outliner.hidden = away;
  outliner.choose(drawable() ? outliner.tool : "move");
}

async function frame(place) {
  const { names } = state.image.sequence;
  if (place < 0 || place >= names.length || place === state.place) return;
  state.place = place;
  showFilm();
  const asked = state.asked;
  await guarded(async () => {
    const { n, image_sha256 } = state.image;
    const picture = await pixels(n, place, image_sha256);
    if (asked === state.asked && place === state.place) viewer.show(picture, { keep: true });
    for (const beside of [place + 1, place - 1]) if (names[beside]) pixels(n, beside, image_sha256).catch(() => {});
  });
}

// --- what a reader says

// What is pressed is about the image that is seen, never about one that is still on its way.
const seen = () => state.image && state.image.n === state.n;

async function label(text) {
  if (!seen()) return;
  if (deciding()) {
    await decide("label", text);
    return;
  }
  const { n, image_sha256 } = state.image, before = item();
  const next = following(state.desk.images, state.tab, n, 1);
  const last = { kind: "desk" };
  done.push(last);
  const saving = send(() => say(`/api/images/${n}/label`, { label: text, image_sha256 }));
  const onward = state.tab === "todo" && (!state.desk.outlines || before.outlined);
  if (onward) {
    // The next image does not wait for the disk; if that fails, the reader is taken back.
    state.desk.images[n] = { ...before, mine: text, done: true, skipped: false };
    go(next === n ? null : next);
  }
  if (await saving) {
    $("live").textContent = `Saved: ${text}`;
    if (!onward && state.n === n) showAll();
    return;
  }
  done.splice(done.indexOf(last), 1);
  state.desk.images[n] = before;
  if (onward) await go(n);
}

async function decide(what, word) {
  if (!seen()) return;
  const { n, image_sha256 } = state.image;
  const next = following(state.desk.images, state.tab, n, 1);
  const answer = await send(() => say(`/api/images/${n}/decide`, { what, word, image_sha256 }));
  if (!answer) return;
  done.push({ kind: "desk" });
  if (state.n !== n) return;
  if (TABS.disputed(answer.item)) await open(n);
  else if (next === n) await choose(inTab(state.desk.images, "todo").length ? "todo" : "done");
  else await open(next);
}

async function skip() {
  if (!seen() || deciding()) return;
  const { n } = state.image;
  const next = following(state.desk.images, state.tab, n, 1);
  if (!(await send(() => say(`/api/images/${n}/skip`, { skipped: true })))) return;
  done.push({ kind: "desk" });
  await go(next);
}

async function undo() {
  const last = done.pop();
  if (outliner.points.length) {
    if (last) done.push(last);
    outliner.undo();
  } else if (last?.kind === "stroke" && last.n === state.n) outliner.undo();
  else {
    const answer = await send(() => say("/api/undo"));
    if (answer && answer.n !== null) {
      if (!TABS[state.tab](state.desk.images[answer.n])) state.tab = answer.what.startsWith("decide") ? "disputed" : "todo";
      await open(answer.n);
      $("live").textContent = "Undone";
    } else if (answer) $("live").textContent = "Nothing to undo";
  }
}

function saveOutline() {
  const { n, image_sha256 } = state.image, { mask } = outliner;
  showDrawn(mask, state.desk.classes);
  return send(() => saveMask(n, image_sha256, () => (mask.exists ? mask.values : null)));
}

// --- going about

async function go(n) {
  // Strokes of an image that one has left can no longer be taken back one by one.
  for (let i = done.length - 1; i >= 0; i--) if (done[i].kind === "stroke") done.splice(i, 1);
  await open(n);
}

async function step(by) {
  if (outliner.points.length) return;
  const next = following(state.desk.images, state.tab, state.n ?? -1, by);
  if (next !== null) await go(next);
}

async function choose(tab) {
  state.tab = tab;
  const found = inTab(state.desk.images, tab);
  const stay = found.some((one) => one.n === state.n);
  if (stay || found.length) await go(stay ? state.n : found[0].n);
  else if (tab === "todo") await go(null);
  else showList(state, go);
}

function tool(name) {
  if (!state.desk.outlines || deciding()) return;
  if (name !== "move" && !drawable()) frame(state.image.sequence.at);
  outliner.choose(name);
  markTools();
}

function markTools() {
  for (const button of $("tools").querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-pressed", String(button.dataset.tool === outliner.tool));
  }
  markClass(outliner.value);
}

function brushSize(size) {
  $("size").value = size;
  outliner.radius = Number($("size").value) / 2;
  viewer.draw();
}

const stroked = (run) => drawable() && run();

listen({
  label: (i) => (state.desk.labels[i] ? label(state.desk.labels[i]) : false),
  step, skip, undo, tool,
  frame: (by) => frame(state.place + by),
  home: () => frame(state.image.sequence.at),
  outlineClass: (k) => outlineClass(k),
  size: (by) => brushSize(Number($("size").value) + by * 2),
  enter: () => (outliner.points.length ? outliner.close(false) : step(1)),
  escape: () => outliner.cancel(),
  backspace: () => outliner.points.length > 0 && outliner.undo(),
  nothing: () => stroked(() => outliner.clear(true)),
  clear: () => stroked(() => outliner.clear(false)),
  hide: () => { outliner.hidden = !outliner.hidden; viewer.draw(); },
  zoom: (factor) => viewer.zoom(factor),
  hold: (held) => { viewer.held = held; },
  reset: () => viewer.resetWindow(),
  fit: () => viewer.fit(),
  help: () => $("keys").showModal(),
});

function outlineClass(k) {
  if (k > outliner.classes) return;
  outliner.value = k;
  markTools();
  viewer.draw();
}

viewer.changed = ({ level, window: width, white }) => {
  for (const [id, value, max] of [["level", level, white], ["width", width, 2 * white]]) {
    Object.assign($(id), { min: 0, max, step: white / 255 });
    $(id).value = value;
  }
  const shown = white === 255 ? [level, width] : [level, width].map(Math.round);
  $("corner").textContent = `Level ${Math.round(shown[0])} · window ${Math.round(shown[1])}`;
};
for (const id of ["level", "width"]) {
  $(id).addEventListener("input", () => viewer.setWindow(Number($("level").value), Number($("width").value)));
}
$("reset").addEventListener("click", () => viewer.resetWindow());
$("fit").addEventListener("click", () => viewer.fit());
$("frame").addEventListener("input", () => frame(Number($("frame").value)));
$("before").addEventListener("click", () => frame(state.place - 1));
$("after").addEventListener("click", () => frame(state.place + 1));
$("home").addEventListener("click", () => frame(state.image.sequence.at));
$("skip").addEventListener("click", skip);
$("undo").addEventListener("click", undo);
$("next").addEventListener("click", () => step(1));
$("nothing").addEventListener("click", () => stroked(() => outliner.clear(true)));
$("clear").addEventListener("click", () => stroked(() => outliner.clear(false)));
$("size").addEventListener("input", () => brushSize(Number($("size").value)));
$("help").addEventListener("click", () => $("keys").showModal());
$("reader").addEventListener("click", askReader);
for (const button of document.querySelectorAll("[data-tab]")) {
  button.addEventListener("click", () => choose(button.dataset.tab));
}
for (const button of document.querySelectorAll("[data-tool]")) {
  button.addEventListener("click", () => tool(button.dataset.tool));
}

// --- who reads

function askReader() {
  $("names").replaceChildren(...state.desk.readers.map((name) => new Option(name)));
  $("name").value = state.desk.reader;
  $("whoerror").textContent = "";
  $("who").showModal();
}
$("who").addEventListener("cancel", (event) => state.desk.reader || event.preventDefault());
$("whoform").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    state.desk = await say("/api/reader", { name: $("name").value });
  } catch (error) {
    $("whoerror").textContent = error.message;
    return;
  }
  $("who").close();
  done.length = 0;
  await begin();
});

async function begin() {
  const { desk } = state;
  $("site").textContent = desk.site;
  $("study").textContent = desk.study;
  $("synthetic").hidden = !desk.synthetic;
  $("reader").textContent = desk.reader || "Who reads?";
  document.title = `${desk.site} · desk`;
  showProgress(desk);
  standing();
  state.n = null;
  if (desk.reader) await choose("todo");
  else {
    showList(state, go);
    askReader();
  }
}

await guarded(async () => {
  state.desk = await read("/api/desk");
  outliner = new Outliner(viewer, state.desk.classes.length);
  outliner.saved = (undone) => {
    if (!undone) done.push({ kind: "stroke", n: state.n });
    saveOutline();
  };
  brushSize(12);
  makeLabels(state.desk.labels, label);
  makeClasses(state.desk.classes, outlineClass);
  showKeys($("keylist"));
  await begin();
});
