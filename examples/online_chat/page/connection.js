// The socket: requests with answers, and a connection that comes back by itself.
//
//   closed --open--> connecting --joined--> online --lost--> waiting --> connecting ... --close--> closed

const ANSWER_WITHIN = 8000; // milliseconds, as all here
const PING_EVERY = 15000;
const FIRST_WAIT = 500;
const LAST_WAIT = 15000;

export class Failure extends Error {
  constructor(reason, retry) {
    super(reason);
    this.retry = retry;
  }
}

export class Connection {
  #url;
  #on;
  #join = null;
  #socket = null;
  #pending = new Map();
  #requests = 0;
  #tries = 0;
  #timer = 0;
  #pinging = 0;

  /** `on` has joined(answer), news(frame), state(name, details) and refused(failure). */
  constructor(url, on) {
    this.#url = url;
    this.#on = on;
    addEventListener("online", () => this.tryNow());
  }

  open(join) {
    this.#join = join;
    this.#tries = 0;
    this.#connect();
  }

  close() {
    this.#join = null;
    clearTimeout(this.#timer);
    this.#drop("closed");
    this.#on.state("closed", {});
  }

  tryNow() {
    if (this.#join && !this.#socket) {
      clearTimeout(this.#timer);
      this.#connect();
    }
  }

  /** Ask the server; rejects with a Failure that says whether asking again makes sense. */
  request(frame) {
    const socket = this.#socket;
    if (socket?.readyState !== WebSocket.OPEN) {
      return Promise.reject(new Failure("you are not connected", true));
    }
    const id = String(++this.#requests);
    return new Promise((resolve, reject) => {
      const late = () => this.#settle(id, new Failure("the server did not answer", true));
      this.#pending.set(id, { resolve, reject, timer: setTimeout(late, ANSWER_WITHIN) });
      socket.send(JSON.stringify({ ...frame, id }));
    });
  }

  #connect() {
    this.#on.state("connecting", {});
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    // A server that is frozen accepts nothing and refuses nothing.
    this.#timer = setTimeout(() => this.#lost(socket, ""), ANSWER_WITHIN);
    socket.onopen = () => this.#enter(socket);
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = ({ reason }) => this.#lost(socket, reason);
  }

  async #enter(socket) {
    clearTimeout(this.#timer);
    try {
      const answer = await this.request({ type: "join", ...this.#join });
      this.#tries = 0;
      this.#pinging = setInterval(() => this.#ping(socket), PING_EVERY);
      this.#on.state("online", {});
      this.#on.joined(answer);
    } catch (failure) {
      if (socket !== this.#socket) return; // lost meanwhile, and seen to
      if (failure.retry) return this.#lost(socket, failure.message);
      this.close();
      this.#on.refused(failure);
    }
  }

  async #ping(socket) {
    try {
      await this.request({ type: "ping" });
    } catch (failure) {
      if (failure.message === "the server did not answer") this.#lost(socket, failure.message);
    }
  }

  #receive(frame) {
    if (frame.type === "ok") this.#settle(frame.id, null, frame);
    else if (frame.type !== "failed") this.#on.news(frame);
    else if (frame.id !== null) this.#settle(frame.id, new Failure(frame.reason, frame.retry));
  }

  #settle(id, failure, answer) {
    const asked = this.#pending.get(id);
    if (!asked) return; // it was given up before
    this.#pending.delete(id);
    clearTimeout(asked.timer);
    if (failure) asked.reject(failure);
    else asked.resolve(answer);
  }

  #lost(socket, reason) {
    if (socket !== this.#socket) return;
    this.#drop("the connection was lost, so nobody knows whether it arrived; sent again, it is shown once");
    if (!this.#join) return;
    // Half of it by chance, so that those whom one server lost do not come back all at once.
    const longest = Math.min(FIRST_WAIT * 2 ** this.#tries++, LAST_WAIT);
    const wait = longest * (0.5 + Math.random() / 2);
    this.#timer = setTimeout(() => this.#connect(), wait);
    this.#on.state("waiting", { reason, until: Date.now() + wait });
  }

  #drop(why) {
    const socket = this.#socket;
    this.#socket = null;
    clearInterval(this.#pinging);
    clearTimeout(this.#timer);
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    for (const id of [...this.#pending.keys()]) this.#settle(id, new Failure(why, true));
  }
}
