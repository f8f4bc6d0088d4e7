// The player: shows a film and its masks, stops at exact frames, and sends what is pointed at as (frame, source pixels).
// gr.HTML calls this code with `element`, `props` and `watch`; `props.value` is {base: address of the session}.

const find = (query) => element.querySelector(query);
const root = find(".tb"), video = find("video"), view = find(".tb-view"), line = find(".tb-line"), seek = find(".tb-seek");
const layer = document.createElement("canvas");  // masks in pixels of the source
let base = "", state = null, frame = 0, tool = "plus", chosen = null;
let exact = null;  // the picture of the stopped frame, from the server
let stroke = null;  // points of the box, scribble or lasso that is being drawn
let painted = "";  // what `layer` shows
let timer = 0, asking = 0;

const masks = new Masks(
  (first, stop) => call(`/masks?first=${first}&stop=${stop}`), draw, (error) => say(error.message, true));

async function call(path, body) {
  const how = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(base + path, how);
  const found = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
  if (!answer.ok) throw new Error(found.error);
  return found;
}

// Sends a wish, whose answer is the new state; an error is shown.
async function wish(path, body) {
  try {
    take(await call(path, body));
    return true;
  } catch (error) {
    say(error.message, true);
    return false;
  }
}

function say(text, wrong = false) {
  find(".tb-said").textContent = text;
  find(".tb-said").classList.toggle("tb-wrong", wrong);
}

async function refresh() {
  clearTimeout(timer);
  const mine = ++asking;
  try {
    const found = await call("/state");
    if (mine === asking) take(found);
  } catch (error) {
    say(error.message, true);
    timer = setTimeout(refresh, 3000);
  }
}

function take(found) {
  const before = state;
  state = found;
  const film = state.film, busy = state.job || (film && film.playable < 1 && !film.unplayable);
  if (!film || !before?.film || before.film.id !== film.id) {
    video.pause();
    video.removeAttribute("src");
    video.load();
    masks.clear();
    [exact, chosen, frame, painted] = [null, null, 0, ""];
    root.dataset.exact = root.dataset.playable = "";
    if (film) [layer.width, layer.height] = [film.width, film.height];
  }
  if (before && before.masks !== state.masks) masks.clear();
  if (film && film.playable === 1 && !video.src) {
    video.src = `${base}/film.mp4?film=${film.id}`;
    root.dataset.playable = "1";
  }
  if (!state.objects.some((object) => object.id === chosen)) chosen = null;
  if (state.made) chosen = state.made;
  if (state.news.number !== before?.news.number) say(state.news.text, state.news.wrong);
  else if (before.job && !state.job) say("");
  fit();
  show();
  if (film && !exact) go(frame);
  draw();
  clearTimeout(timer);
  if (busy) timer = setTimeout(refresh, 300);
}

// The parts of the page that follow the state.
function show() {
  const film = state.film, job = state.job;
  root.classList.toggle("tb-loaded", !!film);
  root.dataset.film = film ? film.id : "";
  root.dataset.job = job ? job.what : "";
  seek.max = find(".tb-number").max = film ? film.frames - 1 : 0;
  find(".tb-of").textContent = film ? `of ${film.frames - 1}${film.fps ? ` · ${(frame / film.fps).toFixed(2)} s` : ""}` : "";
  const waits = film && film.frames > 1 && film.playable < 1;
  find(".tb-badge").hidden = !waits;
  if (waits) {
    find(".tb-badge").textContent = film.unplayable || `preparing playback: ${Math.floor(100 * film.playable)} %`;
  }
  find(".tb-play").disabled = !video.src;
  for (const each of element.querySelectorAll("[data-tool]")) {
    each.classList.toggle("tb-chosen", each.dataset.tool === tool);
  }
  find("[data-do=track]").hidden = !!job;
  find("[data-do=track]").disabled = !state.objects.length || (film && film.frames < 2);
  find("[data-do=cancel]").hidden = find(".tb-progress").hidden = !job;
  if (job) {
    find(".tb-progress div").style.width = `${job.total ? (100 * job.done) / job.total : 0}%`;
    say(`${job.what}${job.total ? `: frame ${job.done} of ${job.total}` : " ..."}`);
  }
  find(".tb-hint").textContent = !film ? "" : chosen ? `pointing at ${nameOf(chosen)}` : "the next click is a new object";
  list();
}

const drawn = (path) => `<svg viewBox="0 0 16 16"><path class="tb-open" d="${path}" /></svg>`;
const EYE = drawn("M1.5 8c3-6 10-6 13 0-3 6-10 6-13 0zM8 6a2 2 0 1 0 .1 0z");
const SHUT = drawn("M1.5 7c3 5 10 5 13 0M4 9.5l-1.5 2M8 11v2.5M12 9.5l1.5 2");
const CROSS = drawn("M3.5 3.5l9 9M12.5 3.5l-9 9");
const nameOf = (id) => state.objects.find((object) => object.id === id)?.name;

function list() {
  const place = find(".tb-objects");
  if (place.contains(document.activeElement) && document.activeElement.tagName === "INPUT") return;  // being renamed
  place.replaceChildren(...state.objects.map((object) => {
    const row = document.createElement("div"), colour = document.createElement("i"), name = document.createElement("input");
    row.className = `tb-object${object.id === chosen ? " tb-chosen" : ""}${object.visible ? "" : " tb-hidden"}`;
    row.dataset.id = object.id;
    row.setAttribute("role", "listitem");
    row.onclick = () => choose(object.id);
    colour.style.background = `rgb(${object.colour})`;
    [name.value, name.maxLength, name.title] = [object.name, 40, "Rename"];
    name.setAttribute("aria-label", `Name of ${object.id}`);
    name.onchange = () => { name.blur(); wish("/rename", { object: object.id, name: name.value }).then(list); };
    name.onkeydown = (event) => { if (event.key === "Enter") name.blur(); };
    const count = document.createElement("small"), frames = object.ranges.reduce((sum, [a, b]) => sum + b - a, 0);
    count.textContent = `${object.name === object.id ? "" : `${object.id} · `}${frames} fr.`;
    count.title = `masks at ${frames} frames; pointed at frames ${object.locked.join(", ")}`;
    const hide = () => wish("/hide", { object: object.id, hidden: object.visible });
    const eye = object.visible ? button("Hide", EYE, hide) : button("Show", SHUT, hide);
    const gone = button("Delete", CROSS, () => wish("/delete", { object: object.id }));
    row.append(colour, name, count, eye, gone);
    return row;
  }));
}

function button(text, drawing, act) {
  const made = document.createElement("button");
  [made.title, made.innerHTML] = [text, drawing];
  made.setAttribute("aria-label", text);
  made.onclick = (event) => { event.stopPropagation(); act(); };
  return made;
}

function choose(id) {
  chosen = id;
  cursor();
  show();
}

// Tells the server what is chosen, for questions about it.
function cursor() {
  if (state?.film) call("/cursor", { frame, object: chosen }).catch((error) => say(error.message, true));
}

// Stops at a frame and shows it exactly.
function go(to) {
  if (!state?.film) return;
  if (!video.paused) video.pause();
  const film = state.film;
  frame = Math.min(Math.max(0, Math.round(to) || 0), film.frames - 1);
  root.dataset.exact = "";
  const picture = new Image(), wanted = frame;
  picture.onload = () => {
    if (wanted !== frame || state.film?.id !== film.id || !video.paused) return;
    exact = picture;
    root.dataset.exact = String(frame);
    draw();
  };
  picture.onerror = () => say(`frame ${wanted} could not be decoded`, true);
  picture.src = `${base}/frame/${wanted}.jpg?film=${film.id}`;
  if (video.src) video.currentTime = (frame + 0.5) / film.copyRate;
  cursor();
  moved();
}

function moved() {
  root.dataset.frame = String(frame);
  seek.value = frame;
  if (document.activeElement !== find(".tb-number")) find(".tb-number").value = frame;
  show();
  draw();
}

function play() {
  if (!video.src) return;
  if (!video.paused) return video.pause();
  if (frame >= state.film.frames - 1) [frame, video.currentTime] = [0, 0];
  video.play();
}

// Each shown frame's own time stamp gives its number; `currentTime` lags behind or runs ahead.
function shown(_, about) {
  if (state?.film && !video.paused) {
    [exact, root.dataset.exact] = [null, ""];
    frame = Math.min(Math.round(about.mediaTime * state.film.copyRate), state.film.frames - 1);
    moved();
  }
  video.requestVideoFrameCallback(shown);
}

video.requestVideoFrameCallback(shown);
video.onplay = () => { exact = null; root.classList.add("tb-playing"); };
video.onpause = video.onended = () => { root.classList.remove("tb-playing"); go(frame); };
