// Drawing and pointing: what lies over the film, the line of time below it, the pointer and the keyboard.

function fit() {
  const film = state?.film, stage = find(".tb-stage");
  const ratio = film ? film.width / film.height : 16 / 9;
  stage.style.aspectRatio = String(ratio);
  stage.style.maxWidth = `${Math.round(Math.max(260, window.innerHeight * 0.5) * ratio)}px`;
}

function sized(canvas) {
  const scale = window.devicePixelRatio || 1, width = Math.round(canvas.clientWidth * scale);
  const height = Math.round(canvas.clientHeight * scale);
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height);
  return [context, scale];
}

function draw() {
  const [context, density] = sized(view), film = state?.film;
  if (!film) return;
  const scale = view.width / film.width;  // canvas pixels in one of the source
  if (exact) context.drawImage(exact, 0, 0, view.width, view.height);
  const found = masks.at(frame), looks = state.objects.map((o) => [o.id, o.visible]).join();
  const key = `${film.id} ${frame} ${state.masks} ${looks}`;
  if (found && painted !== key) {
    layer.getContext("2d").putImageData(paint(layer.getContext("2d"), found, state.objects, film.width, film.height), 0, 0);
    painted = key;
  }
  // After a change the masks from before stay until the new ones have come.
  if (found || painted.startsWith(`${film.id} ${frame} `)) context.drawImage(layer, 0, 0, view.width, view.height);
  context.lineWidth = 2 * density;
  for (const object of state.objects) {
    for (const mark of object.visible ? object.marks : []) {
      if (mark.frame === frame) drawMark(context, mark, `rgb(${object.colour})`, scale, density);
    }
  }
  if (stroke) drawMark(context, { kind: tool, path: stroke }, "#fff", scale, density);
  drawLine();
}

function drawMark(context, mark, colour, scale, density) {
  const at = ([x, y]) => [x * scale, y * scale];
  context.strokeStyle = context.fillStyle = colour;
  context.setLineDash(mark.kind === "lasso" ? [6 * density, 4 * density] : []);
  if (mark.kind === "box" && mark.path.length > 1) {
    const [a, b] = [at(mark.path[0]), at(mark.path[mark.path.length - 1])];
    context.strokeRect(a[0], a[1], b[0] - a[0], b[1] - a[1]);
  } else if (mark.kind === "scribble" || mark.kind === "lasso") {
    context.beginPath();
    mark.path.forEach((point) => context.lineTo(...at(point)));
    if (mark.kind === "lasso") context.closePath();
    context.stroke();
  } else if (mark.kind === "plus" || mark.kind === "minus") {
    const [x, y] = at(mark.path[0]), r = 7 * density;
    context.beginPath();
    context.arc(x, y, r, 0, 7);
    context.fillStyle = mark.kind === "plus" ? "#1a9850" : "#d73027";
    context.fill();
    context.strokeStyle = "#fff";
    context.stroke();
    context.beginPath();
    context.moveTo(x - r / 2, y);
    context.lineTo(x + r / 2, y);
    if (mark.kind === "plus") { context.moveTo(x, y - r / 2); context.lineTo(x, y + r / 2); }
    context.stroke();
  }
  context.setLineDash([]);
}

// A row an object: where it has masks, and where it was pointed at.
function drawLine() {
  const [context, density] = sized(line), film = state.film, last = Math.max(1, film.frames - 1);
  const width = line.width - 12 * density, x = (f) => 6 * density + (width * f) / last;
  const row = Math.min(8 * density, (line.height - 8 * density) / Math.max(1, state.objects.length));
  state.objects.forEach((object, i) => {
    const y = 4 * density + i * row;
    context.fillStyle = `rgb(${object.colour})`;
    context.globalAlpha = object.visible ? 0.45 : 0.15;
    for (const [a, b] of object.ranges) context.fillRect(x(a), y + row * 0.2, Math.max(density, x(b - 1) - x(a)), row * 0.6);
    context.globalAlpha = object.visible ? 1 : 0.3;
    for (const f of object.locked) context.fillRect(x(f) - 1.5 * density, y, 3 * density, row);
  });
  context.globalAlpha = 1;
  context.fillStyle = getComputedStyle(root).color;
  context.fillRect(x(frame) - density, 0, 2 * density, line.height);
}

// A pointer's place in pixels of the source: the pixel at the top left covers 0 to 1.
function place(event) {
  const box = view.getBoundingClientRect(), film = state.film;
  const x = ((event.clientX - box.left) * film.width) / box.width, y = ((event.clientY - box.top) * film.height) / box.height;
  return [Math.min(Math.max(x, 0), film.width - 0.01), Math.min(Math.max(y, 0), film.height - 0.01)];
}

view.onpointerdown = (event) => {
  if (!state?.film || event.button || state.job) return;
  if (!video.paused) {  // the frame that is shown is the one that is meant
    video.pause();
    return say(`stopped at frame ${frame}: point now`);
  }
  stroke = [place(event)];
  view.setPointerCapture(event.pointerId);
};
view.onpointermove = (event) => {
  if (!stroke) return;
  stroke.push(place(event));
  draw();
};
view.onpointercancel = () => { stroke = null; draw(); };
view.onpointerup = async () => {
  if (!stroke) return;
  const path = tool === "box" ? [stroke[0], stroke[stroke.length - 1]] : tool === "plus" || tool === "minus" ? [stroke[0]] : stroke;
  const kind = tool;
  stroke = null;
  if (kind === "minus" && !chosen) return say("choose the object that loses something: click on its row", true);
  await wish("/point", { kind, frame, path, object: chosen });
  cursor();
};

const acts = {
  play,
  back: () => go(frame - 1),
  forward: () => go(frame + 1),
  new: () => choose(null),
  track: () => wish("/track", {}),
  cancel: () => wish("/cancel", {}),
  upload: () => find(".tb-file").click(),
};
element.addEventListener("click", (event) => {
  const pressed = event.target.closest("[data-do], [data-tool]");
  if (!pressed || pressed.disabled) return;
  if (pressed.dataset.tool) { tool = pressed.dataset.tool; if (state) show(); } else acts[pressed.dataset.do]();
});
root.addEventListener("keydown", (event) => {
  if (event.target.matches(".tb-number, .tb-object input") || event.ctrlKey || event.metaKey || event.altKey) return;
  const step = event.shiftKey ? 10 : 1, tools = ["plus", "minus", "box", "scribble", "lasso"];
  const keys = { " ": play, ArrowLeft: () => go(frame - step), ArrowRight: () => go(frame + step), n: acts.new, t: acts.track };
  if (keys[event.key]) keys[event.key]();
  else if (tools[event.key - 1]) { tool = tools[event.key - 1]; show(); }
  else return;
  event.preventDefault();
});
seek.oninput = () => go(Number(seek.value));
find(".tb-number").onchange = (event) => go(Number(event.target.value));
new ResizeObserver(() => { fit(); draw(); }).observe(root);
window.addEventListener("resize", fit);
