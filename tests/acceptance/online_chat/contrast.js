// Run in the page: the visible texts whose contrast with what is behind them is below 4.5 to 1.
() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgb = (colour, ground = [255, 255, 255]) => {
    context.fillStyle = `rgb(${ground.join(" ")})`;
    context.fillRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) =>
    element ? rgb(getComputedStyle(element).backgroundColor, ground(element.parentElement)) : [255, 255, 255];
  const isForListeners = (element) =>
    element && (getComputedStyle(element).clipPath === "inset(50%)" || isForListeners(element.parentElement));
  const poor = [];
  let looked = 0;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility({ visibilityProperty: true })) continue;
    if (element.closest("noscript") || isForListeners(element)) continue;
    looked += 1;
    const behind = ground(element);
    const [one, other] = [light(rgb(getComputedStyle(element).color, behind)), light(behind)];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < 4.5) poor.push([texts.currentNode.data.trim().slice(0, 40), element.className, ratio.toFixed(2)]);
  }
  if (looked < 5) poor.push(["too little was looked at", looked]);
  return poor;
}
