// Draws a rectangle on a picture and tells it in the picture's own pixels.

// `listen(region)` hears {x, y, width, height} in pixels of the picture, or null for none.
export function selectable(canvas, image, box, listen) {
  let start = null;
  let enabled = false;

  canvas.addEventListener("pointerdown", (event) => {
    if (!enabled) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    start = place(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (start) show(rectangle(start, place(event)));
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!start) return;
    const drawn = rectangle(start, place(event));
    start = null;
    const large = drawn.width >= 2 && drawn.height >= 2;
    show(large ? drawn : null);
    listen(large ? drawn : null);
  });
  canvas.addEventListener("pointercancel", () => { start = null; });

  function place(event) {
    const bounds = image.getBoundingClientRect();
    const within = (value, side) => Math.min(side, Math.max(0, Math.round(value * side)));
    return {
      x: within((event.clientX - bounds.left) / bounds.width, image.naturalWidth),
      y: within((event.clientY - bounds.top) / bounds.height, image.naturalHeight),
    };
  }

  function show(region) {
    box.hidden = !region;
    if (!region) return;
    const share = (value, side) => `${(100 * value) / side}%`;
    box.style.left = share(region.x, image.naturalWidth);
    box.style.top = share(region.y, image.naturalHeight);
    box.style.width = share(region.width, image.naturalWidth);
    box.style.height = share(region.height, image.naturalHeight);
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

// "x, y, width, height" as a rectangle; null where the text is none.
export function parsed(text) {
  const values = text.split(/[\s,]+/).filter(Boolean).map(Number);
  const [x, y, width, height] = values;
  const right = values.length === 4 && values.every(Number.isFinite) && width > 0 && height > 0;
  return right ? { x, y, width, height } : null;
}
