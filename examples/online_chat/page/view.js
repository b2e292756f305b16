// What is on the page. Whatever people wrote goes in through textContent alone.

const KEPT = 500; // lines of the timeline
const TOGETHER = 5 * 60 * 1000; // milliseconds in which one author's messages stand together

export const $ = (id) => document.getElementById(id);

const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit" });
const full = new Intl.DateTimeFormat([], { dateStyle: "full", timeStyle: "medium" });

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A name in isolation, so that marks of direction in it reorder nothing else, and the id. */
function named(person) {
  return [element("bdi", { className: "name", textContent: person.name }), " ", identified(person)];
}

function identified(person) {
  return element("span", { className: "id", textContent: `#${person.id}` });
}

const letters = new Intl.Segmenter(undefined, { granularity: "grapheme" });

function avatar(person) {
  // The first letter as people count them, a flag or a family being one, that can be seen.
  const seen = [...letters.segment(person.name)].find(({ segment }) => /[\p{L}\p{N}\p{P}\p{S}]/u.test(segment));
  const initial = seen?.segment ?? "?";
  const made = element("span", { className: "avatar", textContent: initial.toUpperCase() });
  made.setAttribute("aria-hidden", "true");
  let hue = 0;
  for (const character of person.id) hue = (hue * 33 + character.charCodeAt(0)) % 360;
  made.style.setProperty("--hue", hue);
  return made;
}

function time(at) {
  return element("time", { dateTime: at.toISOString(), textContent: clock.format(at), title: full.format(at) });
}

export class Timeline {
  #list = $("timeline");
  #scroll = $("scroll");
  #newer = $("newer");
  #items = new Map();
  #last = null;

  constructor() {
    this.#newer.onclick = () => this.toEnd();
    this.#scroll.onscroll = () => {
      if (this.#atEnd()) this.#newer.hidden = true;
    };
  }

  clear() {
    this.#list.replaceChildren();
    this.#items.clear();
    this.#last = null;
    this.#newer.hidden = true;
  }

  toEnd() {
    this.#scroll.scrollTop = this.#scroll.scrollHeight;
    this.#newer.hidden = true;
  }

  /** A line of what happened; `parts` are strings and people. */
  line(...parts) {
    const said = parts.map((part) => (typeof part === "string" ? [part] : named(part))).flat();
    this.#last = null;
    this.#add(element("li", { className: "line" }, element("p", {}, ...said, " ", time(new Date()))));
  }

  has(author, id) {
    return this.#items.has(`${author.id} ${id}`);
  }

  /** Add a message and return what changes its state later. */
  message({ id, author, text, at, own, again }) {
    const when = new Date(at);
    const item = element("li", { className: own ? "message own" : "message" });
    const follows = this.#last && this.#last.author === author.id && when - this.#last.at < TOGETHER;
    this.#last = { author: author.id, at: when };
    item.classList.toggle("follows", Boolean(follows));
    const who = element("span", { className: "author" }, ...named(author), " ");
    const delivery = element("span", { className: "delivery" });
    const head = element("p", { className: "head" }, who, time(when), " ", delivery);
    const body = element("p", { className: "text", textContent: text, dir: "auto" });
    const failure = element("p", { className: "failure", hidden: true });
    delivery.ariaLive = failure.ariaLive = "off"; // a failure is spoken once, by the page's own logic
    item.append(avatar(author), element("div", { className: "bubble" }, head, body), failure);
    this.#items.set(`${author.id} ${id}`, item);
    this.#add(item, own);
    return {
      show: (name, reason, retry) => {
        const atEnd = this.#atEnd();
        item.dataset.delivery = name; // the style sheet draws its sign
        delivery.replaceChildren(element("span", { className: "hidden", textContent: name }));
        failure.hidden = name !== "failed";
        failure.replaceChildren(`Failed: ${reason}. `);
        if (retry) {
          const button = element("button", { className: "retry", type: "button", textContent: "Retry" });
          button.setAttribute("aria-label", `Retry: ${text.slice(0, 60)}`);
          button.onclick = again;
          failure.append(button);
        }
        if (atEnd) this.toEnd();
      },
    };
  }

  #atEnd() {
    return this.#scroll.scrollHeight - this.#scroll.scrollTop - this.#scroll.clientHeight < 60;
  }

  #add(item, own = false) {
    const follow = own || this.#atEnd();
    this.#list.append(item);
    while (this.#list.childElementCount > KEPT) this.#list.firstElementChild.remove();
    if (follow) this.toEnd();
    else this.#newer.hidden = false;
  }
}

export class Members {
  me = null;
  #list = $("members");
  #people = new Map();

  replace(people) {
    this.#people = new Map(people.map((person) => [keyOf(person), person]));
    this.#draw();
  }

  add(person) {
    this.#people.set(keyOf(person), person);
    this.#draw();
  }

  remove(person) {
    this.#people.delete(keyOf(person));
    this.#draw();
  }

  #draw() {
    const people = [...this.#people.values()].sort(
      (one, other) => one.name.localeCompare(other.name) || one.id.localeCompare(other.id),
    );
    this.#list.replaceChildren(
      ...people.map((person) => {
        const item = element("li", {}, avatar(person), element("span", { className: "who" }, ...named(person)));
        if (person.id === this.me?.id) item.append(element("span", { className: "you", textContent: "you" }));
        return item;
      }),
    );
    $("people-count").textContent = people.length;
    $("people-word").textContent = people.length === 1 ? " person" : " people";
  }
}

const keyOf = (person) => `${person.id} ${person.name}`;
