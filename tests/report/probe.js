// What a person would see go wrong on the page in front of them, as plain data. Details are opened first.
(() => {
  document.querySelectorAll('details').forEach(part => { part.open = true; });
  const box = node => node.getBoundingClientRect();
  const named = node => `${node.tagName}.${node.getAttribute('class') || ''} ${node.textContent.trim().slice(0, 30)}`;
  const width = window.innerWidth;
  const framed = node => node.parentElement.closest('.scroll, nav, pre, table');
  const own = node => [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
  const shown = node => { const b = box(node); return b.width > 0 && b.height > 0; };
  const texts = [...document.querySelectorAll('body *')].filter(node => own(node) && shown(node));

  const wide = [...document.querySelectorAll('body *')]
    .filter(node => !framed(node) && box(node).right > width + 0.5).map(named);

  const letters = [...document.querySelectorAll('svg text')];
  const cut = letters.filter(node => {
    const text = box(node), picture = box(node.closest('svg'));
    return text.left < picture.left - 1 || text.right > picture.right + 1
      || text.top < picture.top - 1 || text.bottom > picture.bottom + 1;
  }).map(named);

  // Turned names have boxes that overlap where their letters do not.
  const overlapping = [...document.querySelectorAll('svg')].flatMap(picture => {
    const level = [...picture.querySelectorAll('text:not([transform])')].map(node => [node, box(node)]);
    return level.flatMap(([one, a], place) => level.slice(place + 1).filter(([, b]) =>
      Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
      && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3.5).map(([other]) => `${named(one)} / ${named(other)}`));
  });

  const size = node => {
    const picture = node.closest('svg');
    const scale = picture && picture.viewBox.baseVal.width ? box(picture).width / picture.viewBox.baseVal.width : 1;
    return parseFloat(getComputedStyle(node).fontSize) * scale;
  };
  const tiny = texts.filter(node => size(node) < (node.closest('svg') ? 8.9 : 11) && !node.matches('.small'))
    .map(node => `${size(node).toFixed(1)} px: ${named(node)}`);

  // Contrast as the Web Content Accessibility Guidelines 2.1 have it, section 1.4.3.
  const colour = text => { const n = text.match(/[\d.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1]; };
  const over = (top, below) => top.slice(0, 3).map((part, i) => part * top[3] + below[i] * (1 - top[3])).concat(1);
  const known = new Map([[null, [255, 255, 255, 1]]]);
  const behind = node => {
    if (!known.has(node)) {
      const found = colour(getComputedStyle(node).backgroundColor);
      known.set(node, found[3] === 1 ? found : over(found, behind(node.parentElement)));
    }
    return known.get(node);
  };
  const light = ([r, g, b]) => [r, g, b].map(part => part / 255)
    .map(part => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const ground = node => {
    let below = behind(node.closest('svg') ? node.closest('svg').parentElement : node);
    for (const shape of node.closest('svg') ? [...node.parentElement.querySelectorAll('rect')] : []) {
      const a = box(shape), b = box(node), x = (b.left + b.right) / 2, y = (b.top + b.bottom) / 2;
      if (a.left > x || a.right < x || a.top > y || a.bottom < y) continue;
      const style = getComputedStyle(shape), fill = colour(style.fill);
      below = over([...fill.slice(0, 3), fill[3] * parseFloat(style.fillOpacity)], below);
    }
    return below;
  };
  const faint = texts.map(node => {
    const style = getComputedStyle(node), mine = colour(node.closest('svg') ? style.fill : style.color);
    const below = ground(node);
    return [ratio(over(mine, below), below), node];
  }).filter(([found, node]) => found < 4.5).map(([found, node]) => `${found.toFixed(2)}: ${named(node)}`);

  const badge = document.querySelector('.badge'), title = document.querySelector('h1');
  return {
    width, page: document.documentElement.scrollWidth, wide, cut, overlapping, tiny, faint,
    verdict: badge && [document.querySelector('header').className, getComputedStyle(badge).color],
    badge: badge && [box(badge).top + window.scrollY, box(badge).bottom + window.scrollY],
    title: title && box(title).bottom + window.scrollY,
    sections: [...document.querySelectorAll('section')].map(part => {
      const b = box(part);
      return [part.id, b.left, b.top + window.scrollY, b.right, b.bottom + window.scrollY];
    }),
    pictures: [...document.images].map(image => image.naturalWidth),
  };
})()
