"use strict";
// Elements. Text is only ever set as text, never as markup.
function make(tag, attributes, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  made.append(...inside);
  return made;
}

const byId = (id) => document.getElementById(id);

// Writing what is there already would cost as much as writing what is not.
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// A canvas as large as it is shown, in pixels of the screen; its context counts in those of the page.
function fitted(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas, ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return { context, width, height };
}

// Colours of the present scheme, for canvases.
function colours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "soft", "line", "card", "one", "other", "answer", "wait", "late", "out"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}
