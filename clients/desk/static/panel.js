// The panel on the right: why the image was chosen, the labels, who said what where readers disagree.

import { colour } from "/static/mask.js";

const $ = (id) => document.getElementById(id);
const percent = (budget) => `${budget.replace("_", ".")} %`;
// Not those of the classes: a reader's colour says nothing of what is outlined.
export const READER_COLOURS = ["#6fd3cb", "#ff9d6f", "#c5a3ff", "#f4e06d", "#7fb4ff", "#ff8fb1"];

function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function keyed(text, key) {
  const button = element("button", text, { type: "button", "aria-keyshortcuts": key });
  button.append(element("kbd", key));
  return button;
}

export function makeLabels(labels, say) {
  const place = $("labels");
  place.querySelectorAll("button").forEach((button) => button.remove());
  labels.forEach((label, i) => {
    const button = keyed(label, String(i + 1));
    button.dataset.label = label;
    button.addEventListener("click", () => say(label));
    place.append(button);
  });
}

export function makeClasses(classes, choose) {
  const place = $("classes");
  place.hidden = classes.length < 2;
  place.replaceChildren(...classes.map((name, i) => {
    const button = keyed(name, `Shift+${i + 1}`);
    button.style.setProperty("--c", colour(i + 1));
    button.dataset.value = i + 1;
    button.addEventListener("click", () => choose(i + 1));
    return button;
  }));
}

export function markClass(value) {
  for (const button of $("classes").children) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.value) === value));
  }
}

export function showImage(image, labels, deciding, decided) {
  $("rank").textContent = `No. ${image.rank}`;
  $("lists").textContent = image.lists.map(([arm, budget]) => `${arm} ${percent(budget)}`).slice(0, 3).join(" · ")
    + (image.lists.length > 3 ? ` and ${image.lists.length - 3} more` : "");
  $("lists").title = image.lists.map(([arm, budget]) => `${arm} ${percent(budget)}`).join(", ");
  $("reason").textContent = image.reason;
  const figures = [["uncertainty", image.uncertainty], ["distance", image.distance]];
  $("figures").textContent = figures.filter(([, value]) => value !== null)
    .map(([name, value]) => `${name} ${value.toPrecision(2)}`).join(" · ");
  $("figures").title = "in radians";
  $("figures").hidden = !$("figures").textContent;
  $("labels").querySelector("legend").textContent = deciding ? "Decide the label" : "Label";
  for (const button of $("labels").querySelectorAll("button")) {
    const said = deciding ? decided : image.mine;
    button.setAttribute("aria-pressed", String(said === button.dataset.label));
    button.disabled = deciding && image.label_state !== "disputed" && image.label_state !== "decided";
  }
}

export function showDrawn(mask, classes) {
  if (!mask?.exists) {
    $("drawn").textContent = "Not outlined yet.";
    return;
  }
  const names = classes.length ? classes : ["outlined"];
  const parts = names.map((name, i) => [name, mask.area(i + 1)]).filter(([, area]) => area);
  $("drawn").textContent = parts.length
    ? parts.map(([name, area]) => `${name}: ${area.toLocaleString("en")} px`).join(", ")
    : "Nothing to outline here.";
}

export function showWords(words, decide) {
  const place = $("words");
  place.hidden = !words;
  if (!words) return;
  const parts = [element("h2", "What the readers say")];
  const list = element("ul");
  for (const { reader, label, time } of words.labels) {
    const row = element("li");
    row.append(element("span", reader), element("b", label, { title: time }));
    list.append(row);
  }
  words.outlines.forEach(({ reader, time, counts }, i) => {
    const row = element("li"), who = element("span");
    const swatch = element("span", "", { class: "swatch" });
    swatch.style.setProperty("--c", READER_COLOURS[i % READER_COLOURS.length]);
    who.append(swatch, `outline of ${reader}`);
    const take = element("button", counts ? "counts" : "Take", { type: "button", title: time, "aria-pressed": String(counts) });
    take.dataset.take = reader;
    take.addEventListener("click", () => decide("outline", reader));
    row.append(who, take);
    list.append(row);
  });
  parts.push(list);
  if (words.dice.length) {
    const worst = Math.min(...words.dice.map(({ dice }) => dice));
    parts.push(element("p", `The outlines overlap by a Dice of ${worst.toFixed(2)}; from .80 on they count as the same.`, { class: "muted" }));
  }
  place.replaceChildren(...parts);
}

export function showProgress(desk) {
  const { all, mine, counted, disputed } = desk.progress;
  $("progress").textContent = `${mine} of ${all} read`;
  $("progress").title = `${counted} of ${all} count for the study; ${disputed} on which readers disagree`;
  $("bar").setAttribute("aria-valuemax", all);
  $("bar").setAttribute("aria-valuenow", mine);
  $("bar").firstElementChild.style.width = `${(100 * mine) / Math.max(all, 1)}%`;
}

