// The page's own logic: who I am, what I have sent, what I have not read.

import { Connection } from "./connection.js";
import { $, Members, Timeline } from "./view.js";

const LIMIT = 4096; // bytes of a message, as the server counts
const encoder = new TextEncoder();
const bytesOf = (text) => encoder.encode(text.trim()).length;

const timeline = new Timeline();
const members = new Members();
const sent = new Map(); // my messages by id, until they are known to be sent
let me = null;
let room = "";
let unread = 0;
let countdown = 0;

const connection = new Connection(`${location.protocol.replace("http", "ws")}//${location.host}/socket`, {
  joined,
  news: (frame) => news[frame.type]?.(frame),
  state: showState,
  refused: (failure) => showLobby(failure.message),
});

// --- coming and going ----------------------------------------------------------------------------

function joined(answer) {
  const again = me !== null;
  me = answer.you;
  room = answer.room;
  members.me = me;
  members.replace(answer.members);
  $("room-name").textContent = room;
  remember({ room, name: me.name });
  showTitle();
  showNotice("");
  if (again) {
    timeline.line("You are connected again. What was said meanwhile is missing here.");
  } else {
    timeline.line("You came in as ", me);
    $("text").focus();
  }
}

const news = {
  presence({ change, member }) {
    if (change === "joined" || change === "present") members.add(member);
    else members.remove(member);
    if (change === "joined") timeline.line(member, " came in");
    if (change === "left") timeline.line(member, " left");
    if (change === "lost") timeline.line(member, " disconnected without leaving");
  },

  message({ id, author, text, at }) {
    const mine = sent.get(id);
    if (mine && author.id === me?.id) return mine.arrived();
    if (timeline.has(author, id)) return; // sent twice by who did not know that it had arrived
    const own = author.id === me?.id; // from another tab
    const shown = timeline.message({ id, author, text, at, own });
    if (own) shown.show("sent");
    else countUnread();
  },

  reach({ connected }) {
    showState(connected ? "online" : "cut-off", {});
    showNotice(connected ? "" : "The servers cannot reach each other. Nothing can be sent for the moment.");
    if (connected) timeline.line("The servers hear each other again. What others said meanwhile is missing here.");
  },
};

function enter(room, name) {
  me = null;
  $("join-error").textContent = "";
  $("lobby").hidden = true;
  $("chat").hidden = false;
  $("room-name").textContent = room;
  connection.open({ room, name, key: myKey() });
}

function showLobby(error = "") {
  me = null;
  unread = 0;
  forget();
  showTitle();
  timeline.clear();
  members.replace([]);
  sent.clear();
  $("chat").hidden = true;
  $("lobby").hidden = false;
  $("join-error").textContent = error;
  $("name").focus();
}

$("join").onsubmit = (event) => {
  event.preventDefault();
  const name = $("name").value.trim();
  const wanted = $("room").value.trim();
  if (!wanted || !name) {
    $("join-error").textContent = wanted ? "Give a name, so that others know who you are." : "Give a room.";
    $(wanted ? "name" : "room").focus();
    return;
  }
  enter(wanted, name);
};

$("leave").onclick = () => {
  connection.close();
  showLobby();
};

$("try-now").onclick = () => {
  connection.tryNow();
  $("text").focus();
};

// --- saying something ----------------------------------------------------------------------------

$("compose").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || !me || bytesOf(text) > LIMIT) return;
  $("text").value = "";
  fit();
  say(text);
};

$("text").onkeydown = (event) => {
  // Not while an input method is composing a character: its Enter is its own.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("compose").requestSubmit();
  }
};

$("text").oninput = fit;

function fit() {
  const text = $("text");
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
  const left = LIMIT - bytesOf(text.value);
  $("room-left").textContent = left < 0 ? `${-left} bytes too long` : left < 500 ? `${left} bytes left` : "";
  $("compose").classList.toggle("over", left < 0);
  $("send").disabled = left < 0;
}

function say(text) {
  const id = uuid();
  const own = { id, author: me, text, at: Date.now(), own: true, again: send };
  const shown = timeline.message(own);
  const arrived = () => {
    sent.delete(id);
    shown.show("sent");
  };
  sent.set(id, { arrived });
  send();

  async function send() {
    shown.show("sending");
    try {
      await connection.request({ type: "say", message: id, text }); // the same id each time
      arrived();
    } catch (failure) {
      if (!sent.has(id)) return; // it came back to us, so it was sent
      shown.show("failed", failure.message, failure.retry);
      $("spoken").textContent = `Your message was not sent: ${failure.message}`;
      $("text").focus();
    }
  }
}

// --- what is seen of all this --------------------------------------------------------------------

function showState(name, { reason, until }) {
  clearInterval(countdown);
  const words = { connecting: "connecting", online: "online", waiting: "offline", closed: "", "cut-off": "cut off" };
  $("state").textContent = words[name];
  $("state").dataset.state = name;
  $("try-now").hidden = name !== "waiting";
  $("countdown").textContent = "";
  if (name === "waiting") {
    const said = reason ? `${reason[0].toUpperCase()}${reason.slice(1)}.` : "The connection was lost.";
    const tell = () => {
      const seconds = Math.max(0, Math.ceil((until - Date.now()) / 1000));
      $("countdown").textContent = `Trying again in ${seconds} s.`;
    };
    showNotice(said);
    tell();
    countdown = setInterval(tell, 250);
  }
}

function showNotice(text) {
  $("notice").hidden = !text;
  $("notice-text").textContent = text;
}

function countUnread() {
  if (document.hidden || !document.hasFocus()) {
    unread += 1;
    showTitle();
  }
}

function read() {
  if (!document.hidden && unread) {
    unread = 0;
    showTitle();
  }
}

addEventListener("focus", read);
document.addEventListener("visibilitychange", read);

function showTitle() {
  const where = me ? `#${room} · Online chat` : "Online chat";
  document.title = unread ? `(${unread}) ${where}` : where;
}

$("show-people").onclick = () => {
  const open = $("people").classList.toggle("open");
  $("show-people").setAttribute("aria-expanded", String(open));
};

addEventListener("keydown", (event) => {
  if (event.key === "Escape" && $("people").classList.contains("open")) {
    $("show-people").click();
    $("show-people").focus();
  }
});

// --- what the browser keeps ----------------------------------------------------------------------

/** The secret of this tab, of which the server makes the id that others see. */
function myKey() {
  const key = sessionStorage.getItem("key") ?? uuid();
  sessionStorage.setItem("key", key);
  return key;
}

function remember({ room, name }) {
  sessionStorage.setItem("room", room);
  localStorage.setItem("name", name);
  history.replaceState(null, "", `#${encodeURIComponent(room)}`);
}

function forget() {
  sessionStorage.removeItem("room");
}

/** Version 4. `crypto.randomUUID` is there on https and localhost only, and phones come otherwise. */
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, "$1-$2-$3-$4-$5");
}

function roomOfLink() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return ""; // somebody else's percent signs
  }
}

$("room").value = roomOfLink() || sessionStorage.getItem("room") || "lobby";
$("name").value = localStorage.getItem("name") ?? "";
if (sessionStorage.getItem("room") && $("name").value) {
  enter($("room").value, $("name").value); // a page that was loaded again is still in its room
} else {
  $("lobby").hidden = false;
  $("name").focus();
}
