(function () {
  'use strict';
  var svg = (document.currentScript && document.currentScript.ownerSVGElement) || document.documentElement;
  var ns = 'http://www.w3.org/2000/svg', letter = 6.63, slack = 0.02;
  var left = +svg.getAttribute('data-left'), width = +svg.getAttribute('data-width');
  var detail = svg.querySelector('.d'), hint = detail.textContent;
  var frames = Array.prototype.map.call(svg.querySelectorAll('g.f'), function (g) {
    var r = g.querySelector('rect'), tip = g.querySelector('title').textContent;
    return {g: g, r: r, t: g.querySelector('text'), tip: tip.split('\n').join(' · '), name: tip.split('\n')[0],
      x: +r.getAttribute('x'), w: +r.getAttribute('width'), y: +r.getAttribute('y'), shown: true};
  });
  var root = frames[0], top = root, at = root;

  function within(a, b) { return a.x >= b.x - slack && a.x + a.w <= b.x + b.w + slack; }

  function label(f, x, w) {
    var room = Math.floor((w - 5) / letter), text = '';
    if (room >= 3) { text = f.name.length <= room ? f.name : f.name.slice(0, room - 1) + '…'; }
    if (!f.t) {
      if (!text) { return; }
      f.t = document.createElementNS(ns, 'text');
      f.t.setAttribute('y', f.y + 12);
      f.g.appendChild(f.t);
    }
    f.t.setAttribute('x', x + 3);
    f.t.textContent = text;
  }

  function zoom(to) {
    top = to;
    frames.forEach(function (f) {
      var inside = f.y >= to.y && within(f, to), above = f.y < to.y && within(to, f);
      f.shown = inside || above;
      f.g.style.display = f.shown ? '' : 'none';
      f.g.classList.toggle('above', above);
      if (!f.shown) { return; }
      var x = above ? left : left + (f.x - to.x) * width / to.w, w = above ? width : f.w * width / to.w;
      f.r.setAttribute('x', x);
      f.r.setAttribute('width', w);
      label(f, x, w);
    });
    svg.setAttribute('data-zoom', to.name);
  }

  function search(text) {
    var pattern = null, hits = 0, covered = 0, outer = null;
    try { pattern = text ? new RegExp(text, 'i') : null; } catch (e) { detail.textContent = 'not a regular expression: ' + text; return; }
    frames.forEach(function (f) {
      var hit = pattern !== null && pattern.test(f.name);
      f.g.classList.toggle('hit', hit);
      f.g.classList.toggle('miss', pattern !== null && !hit);
      if (!hit) { return; }
      hits++;
      if (!outer || !(f.y > outer.y && within(f, outer))) { outer = f; covered += f.w; }
    });
    svg.setAttribute('data-hits', hits);
    detail.textContent = pattern === null ? hint : hits + ' frames match ' + text + ', ' + (100 * covered / root.w).toFixed(1) + ' % of the width';
  }

  function focus(f) {
    if (!f) { return; }
    at.g.setAttribute('tabindex', '-1');
    at = f;
    f.g.setAttribute('tabindex', '0');
    f.g.focus();
    detail.textContent = f.tip;
  }

  function row(y) { return frames.filter(function (f) { return f.shown && f.y === y; }).sort(function (a, b) { return a.x - b.x; }); }

  function move(key) {
    var step = root.y === at.y && frames.length > 1 ? frames[1].y - root.y : 0, same = row(at.y), i = same.indexOf(at);
    frames.some(function (f) { if (f.y > root.y) { step = f.y - root.y; return true; } return false; });
    if (key === 'ArrowLeft') { focus(same[i - 1]); }
    if (key === 'ArrowRight') { focus(same[i + 1]); }
    if (key === 'ArrowUp') { focus(row(at.y - step).filter(function (f) { return within(at, f); })[0]); }
    if (key === 'ArrowDown') { focus(row(at.y + step).filter(function (f) { return within(f, at); })[0]); }
  }

  function control(x, w, body) {
    var box = document.createElementNS(ns, 'foreignObject');
    box.setAttribute('x', x);
    box.setAttribute('y', +svg.getAttribute('data-top') - 29);
    box.setAttribute('width', w);
    box.setAttribute('height', 26);
    box.appendChild(body);
    svg.appendChild(box);
    return body;
  }

  function html(name, style) {
    var e = document.createElementNS('http://www.w3.org/1999/xhtml', name);
    e.setAttribute('style', 'font:12px sans-serif;box-sizing:border-box;width:100%;height:24px;' + (style || ''));
    return e;
  }

  var find = html('input'), reset = html('button');
  find.setAttribute('type', 'search');
  find.setAttribute('placeholder', 'search: regular expression (/)');
  find.setAttribute('aria-label', 'search for functions by regular expression');
  reset.textContent = 'reset (Esc)';
  control(left + width - 330, 230, find).addEventListener('input', function () { search(find.value); });
  control(left + width - 92, 92, reset).addEventListener('click', all);

  function all() {
    find.value = '';
    search('');
    zoom(root);
  }

  frames.forEach(function (f) {
    f.g.setAttribute('tabindex', f === root ? '0' : '-1');
    f.g.setAttribute('role', 'button');
    f.g.addEventListener('click', function () { zoom(f); focus(f); });
    f.g.addEventListener('mouseenter', function () { detail.textContent = f.tip; });
    f.g.addEventListener('mouseleave', function () { detail.textContent = hint; });
    f.g.addEventListener('focus', function () { at = f; detail.textContent = f.tip; });
  });
  svg.addEventListener('keydown', function (e) {
    if (e.key === 'Escape') { all(); focus(root); return; }
    if (e.target === find) { return; }
    if (e.key === '/') { e.preventDefault(); find.focus(); }
    if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); zoom(at); focus(at); }
    if (e.key.indexOf('Arrow') === 0) { e.preventDefault(); move(e.key); }
  });
}());
