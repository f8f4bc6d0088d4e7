// Choosing a film: the list of what the server may read, and uploads by button or by dropping a file.

async function films() {
  try {
    const names = await call("/films"), place = find(".tb-films"), now = place.value;
    const options = ["", ...names].map((name) => {
      const option = document.createElement("option");
      [option.value, option.textContent] = [name, name || "Choose a film"];
      return option;
    });
    place.replaceChildren(...options);
    place.value = names.includes(now) ? now : "";
  } catch (error) {
    say(error.message, true);
  }
}

async function upload(file) {
  if (!file) return;
  say(`uploading ${file.name}`);
  try {
    const answer = await fetch(`${base}/upload?file=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
    const found = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
    if (!answer.ok) throw new Error(found.error);
    find(".tb-films").value = "";
    take(found);
  } catch (error) {
    say(error.message, true);
  }
}

find(".tb-films").onchange = (event) => event.target.value && wish("/open", { film: event.target.value });
find(".tb-films").onfocus = films;
find(".tb-file").onchange = (event) => { upload(event.target.files[0]); event.target.value = ""; };
const stage = find(".tb-stage");
stage.ondragover = (event) => { event.preventDefault(); stage.classList.add("tb-drop"); };
stage.ondragleave = () => stage.classList.remove("tb-drop");
stage.ondrop = (event) => {
  event.preventDefault();
  stage.classList.remove("tb-drop");
  upload(event.dataTransfer.files[0]);
};

// The page gives the session's address, and gives it again after each answer, which may have changed the film.
function begin() {
  if (!props.value?.base) return;
  if (base !== props.value.base) {
    [base, state] = [props.value.base, null];
    sessionStorage.setItem("tubelet-session", base.split("/").pop());
    films();
  }
  refresh();
}
watch("value", begin);
begin();
