// The keyboard. A text field, a slider and an open dialog keep their own keys.

export const KEYS = [
  ["1 … 9", "say the label"], ["N → / ←", "next, or previous, image"], ["↑ / ↓", "frame before, or after"],
  ["S", "skip: it comes back at the end"], ["U  Ctrl+Z", "undo"], ["C", "back to the frame that is asked about"],
  ["V P B E", "move, polygon, brush, eraser"], ["Shift+1 … 9", "what is outlined, where there are several"],
  ["[ / ]", "size of brush and eraser"], ["Enter  Esc", "close the polygon, or give it up"],
  ["Alt", "held while drawing: erase"], ["X  Del", "nothing to outline; clear"], ["H", "hide the outline"],
  ["Wheel + −", "zoom"], ["Space, middle button", "move the image while a tool is chosen"],
  ["Right button", "grey levels: across window, down level"], ["R  F", "reset the grey levels, fit the image"],
];

export function showKeys(place) {
  for (const [keys, does] of KEYS) {
    const term = document.createElement("dt");
    for (const key of keys.split("  ")) {
      const cap = document.createElement("kbd");
      cap.textContent = key;
      term.append(cap);
    }
    const text = document.createElement("dd");
    text.textContent = does;
    place.append(term, text);
  }
}

// `actions` has a function for each name; one that returns false leaves the key to the browser.
export function listen(actions) {
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    const { target } = event;
    if (target instanceof HTMLInputElement && target.type !== "range") return;
    const sliding = target instanceof HTMLInputElement;
    if (sliding && event.key.startsWith("Arrow")) return;
    const pressing = target instanceof HTMLButtonElement && (event.key === "Enter" || event.key === " ");
    if (pressing) return;
    const name = named(event);
    if (name && actions[name[0]]?.(...name.slice(1)) !== false) event.preventDefault();
  });
  // What was pressed by mouse does not keep the keyboard: Enter would press it again, of the next
  // image, and the arrows would move a slider.
  document.addEventListener("click", (event) => event.detail && event.target.closest("button")?.blur());
  document.addEventListener("pointerup", ({ target }) => {
    if (target instanceof HTMLInputElement && target.type === "range") target.blur();
  });
  document.addEventListener("keyup", (event) => {
    if (event.key === " ") actions.hold(false);
  });
}

function named(event) {
  const digit = /^Digit([1-9])$/.exec(event.code) ?? /^Numpad([1-9])$/.exec(event.code);
  if (event.ctrlKey || event.metaKey) return event.key.toLowerCase() === "z" ? ["undo"] : null;
  if (event.altKey) return null;
  if (digit && event.shiftKey) return ["outlineClass", Number(digit[1])];
  if (digit) return ["label", Number(digit[1]) - 1];
  const plain = {
    n: ["step", 1], ArrowRight: ["step", 1], ArrowLeft: ["step", -1], ArrowUp: ["frame", -1],
    ArrowDown: ["frame", 1], s: ["skip"], u: ["undo"], c: ["home"], v: ["tool", "move"],
    p: ["tool", "polygon"], b: ["tool", "brush"], e: ["tool", "eraser"], "[": ["size", -1], "]": ["size", 1],
    Enter: ["enter"], Escape: ["escape"], x: ["nothing"], Delete: ["clear"], Backspace: ["backspace"],
    h: ["hide"], "+": ["zoom", 1.25], "=": ["zoom", 1.25], "-": ["zoom", 0.8], " ": ["hold", true],
    r: ["reset"], f: ["fit"], "?": ["help"],
  };
  return plain[event.key.length === 1 ? event.key.toLowerCase() : event.key] ?? null;
}
