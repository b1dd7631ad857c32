// Rectangle selection on a picture.

// Calls `onSelect(region)` with {x, y, width, height} in pixels of the picture, or null for none.
export function selectable(canvas, image, box, onSelect) {
  let start = null;
  let enabled = false;

  canvas.addEventListener("pointerdown", (event) => {
    if (!enabled) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    start = pixelOf(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (start) show(rectangle(start, pixelOf(event)));
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!start) return;
    const drawn = rectangle(start, pixelOf(event));
    start = null;
    const large = drawn.width >= 2 && drawn.height >= 2;
    show(large ? drawn : null);
    onSelect(large ? drawn : null);
  });
  canvas.addEventListener("pointercancel", () => { start = null; });

  function pixelOf(event) {
    const bounds = image.getBoundingClientRect();
    const clamped = (value, side) => Math.min(side, Math.max(0, Math.round(value * side)));
    return {
      x: clamped((event.clientX - bounds.left) / bounds.width, image.naturalWidth),
      y: clamped((event.clientY - bounds.top) / bounds.height, image.naturalHeight),
    };
  }

  function show(region) {
    box.hidden = !region;
    if (!region) return;
    const percent = (value, side) => `${(100 * value) / side}%`;
    box.style.left = percent(region.x, image.naturalWidth);
    box.style.top = percent(region.y, image.naturalHeight);
    box.style.width = percent(region.width, image.naturalWidth);
    box.style.height = percent(region.height, image.naturalHeight);
  }

  return {
    show,
    enable(yes) {
      enabled = yes;
      canvas.classList.toggle("drawing", yes);
      if (!yes) show(null);
    },
  };
}

function rectangle(one, other) {
  return {
    x: Math.min(one.x, other.x),
    y: Math.min(one.y, other.y),
    width: Math.abs(one.x - other.x),
    height: Math.abs(one.y - other.y),
  };
}

// Parses "x, y, width, height"; null if the text is invalid.
export function parsed(text) {
  const values = text.split(/[\s,]+/).filter(Boolean).map(Number);
  const [x, y, width, height] = values;
  const valid = values.length === 4 && values.every(Number.isFinite) && width > 0 && height > 0;
  return valid ? { x, y, width, height } : null;
}
