// The list on the left: what is still to be read, what is read, where readers disagree.

export const TABS = {
  todo: (item) => !item.done,
  done: (item) => item.done,
  disputed: (item) => [item.label_state, item.outline_state].some((s) => s === "disputed"),
};
const EMPTY = {
  todo: "Nothing is left to read.", done: "Nothing is read yet.",
  disputed: "No two readers disagree.",
};

// Of a tab, in the order in which it is worked through: what was skipped comes last.
export function inTab(items, tab) {
  const found = items.filter(TABS[tab]);
  if (tab !== "todo") return found;
  return [...found.filter((item) => !item.skipped), ...found.filter((item) => item.skipped)];
}

// The image after (or before) this one in its tab; round the end.
export function following(items, tab, n, step) {
  const found = inTab(items, tab);
  if (!found.length) return null;
  const at = found.findIndex((item) => item.n === n);
  if (at >= 0) return found[(at + step + found.length) % found.length].n;
  // It has just left the tab: go on with what stood behind it.
  const kept = found.filter((item) => !item.skipped);
  const from = kept.length && tab === "todo" ? kept : found;
  const behind = step > 0 ? from.find((item) => item.n > n) : from.findLast((item) => item.n < n);
  return (behind ?? from[step > 0 ? 0 : from.length - 1]).n;
}

function words(item, outlines, tab) {
  if (tab === "disputed") {
    const about = [item.label_state === "disputed" && "labels", item.outline_state === "disputed" && "outlines"];
    return [`${about.filter(Boolean).join(" and ")} differ`, "split"];
  }
  if (item.done) return [item.mine, "yes"];
  if (item.mine) return [`${item.mine}, to be outlined`, "yes"];
  if (item.outlined) return ["outlined, to be labelled", "yes"];
  return [item.skipped ? "skipped" : item.reason, ""];
}

export function showList(state, choose) {
  const list = document.getElementById("list");
  const items = inTab(state.desk.images, state.tab);
  const rows = items.map((item) => {
    const row = document.createElement("li");
    const button = document.createElement("button");
    button.dataset.n = item.n;
    if (item.n === state.n) button.setAttribute("aria-current", "true");
    const cell = (name, text, title = "") => {
      const span = document.createElement("span");
      span.className = name;
      // The end of an id tells it apart, so it is the beginning that is cut where it is too long.
      span.append(name === "id" ? document.createElement("bdi") : "");
      (span.firstElementChild ?? span).textContent = text;
      span.title = title;
      button.append(span);
    };
    const [said, kind] = words(item, state.desk.outlines, state.tab);
    cell("no", item.rank);
    cell("id", item.id, item.id);
    cell(`said ${kind}`, said, item.reason);
    button.addEventListener("click", () => choose(item.n));
    row.append(button);
    return row;
  });
  if (!rows.length) {
    const row = document.createElement("li");
    row.className = "none";
    row.textContent = EMPTY[state.tab];
    rows.push(row);
  }
  list.replaceChildren(...rows);
  list.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  for (const button of document.querySelectorAll("[data-tab]")) {
    const { tab } = button.dataset;
    button.setAttribute("aria-pressed", String(tab === state.tab));
    button.querySelector("b").textContent = state.desk.images.filter(TABS[tab]).length;
  }
}
