// What the page does better with a script. Without one, each of these works by a form or a link.
"use strict";

// A redrive: its bar moves. At the end the page is loaded anew, with what the server says of it.
const job = document.querySelector("[data-job]");
if (job) {
  const bar = job.querySelector("progress");
  const text = job.querySelector("[data-job-text]");
  const number = new Intl.NumberFormat("en");
  const look = async () => {
    try {
      const response = await fetch(job.dataset.job, { headers: { accept: "application/json" } });
      const now = await response.json();
      if (now.state !== "running") {
        location.reload();
        return;
      }
      if (now.total) {
        bar.max = now.total;
        bar.value = now.done + now.gone;
        const reached = `${number.format(now.done)} of ${number.format(now.total)}`;
        const said = !now.connected
          ? `${reached}. Waiting for the broker: the bus is not connected`
          : now.canary === "waiting"
            ? "One was sent back. Waiting for its outcome"
            : reached;
        if (text.textContent.trim() !== said) text.textContent = said;
      }
    } catch {
      text.textContent = "The server does not answer. Trying again";
    }
    setTimeout(look, 700);
  };
  setTimeout(look, 300);
}

// The overview: its figures are reloaded, unless the visitor is using it.
const fresh = document.querySelector("[data-refresh]");
if (fresh) {
  setInterval(() => {
    const at = document.activeElement;
    if (document.hidden || (at && fresh.contains(at))) return;
    const request = new XMLHttpRequest();
    request.open("GET", location.href);
    request.responseType = "document"; // parsed by the browser, and no script in it runs
    request.addEventListener("load", () => {
      const found = request.response && request.response.querySelector("[data-refresh]");
      if (request.status === 200 && found) fresh.replaceChildren(...found.childNodes);
    });
    request.send();
  }, Number(fresh.dataset.refresh) * 1000);
}

// Lists: one tick for all of them.
for (const form of document.querySelectorAll("[data-selectable]")) {
  const all = form.querySelector("[data-select-all]");
  if (!all) continue;
  all.hidden = false;
  const boxes = [...form.querySelectorAll("input[name=id]")];
  const input = all.querySelector("input");
  input.addEventListener("change", () => boxes.forEach((box) => (box.checked = input.checked)));
  form.addEventListener("change", () => {
    input.checked = boxes.every((box) => box.checked);
    input.indeterminate = !input.checked && boxes.some((box) => box.checked);
  });
}

for (const button of document.querySelectorAll("[data-confirm]")) {
  button.addEventListener("click", (event) => {
    if (!confirm(button.dataset.confirm)) event.preventDefault();
  });
}

// Times: the reader's own, beside those of the server.
for (const time of document.querySelectorAll("time")) {
  time.title = `${new Date(time.dateTime).toLocaleString()} here, ${time.title}`;
}
