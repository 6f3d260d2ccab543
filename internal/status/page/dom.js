// What every part of the page needs to change the document. Text from outside reaches it only through text().
export const $ = (id) => document.getElementById(id);

export function make(tag, className, parent) {
  const el = document.createElement(tag);
  if (className) el.className = className;
  if (parent) parent.append(el);
  return el;
}

export function text(el, s) {
  s = String(s);
  if (el.textContent !== s) el.textContent = s;
}
