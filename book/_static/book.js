"use strict";
// Wide tables and code scroll inside the page; by keyboard too, so each gets a tab stop and a name.
document.addEventListener("DOMContentLoaded", () => {
  const wide = document.querySelectorAll("div.highlight pre, .output.stream pre, .cell_output pre");
  for (const box of wide) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
  for (const [i, table] of document.querySelectorAll("article table").entries()) {
    if (table.closest(".scroll, .explorer")) continue;
    const box = document.createElement("div");
    Object.assign(box, { className: "scroll", tabIndex: 0 });
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", table.caption ? table.caption.textContent : `table ${i + 1}`);
    table.replaceWith(box);
    box.append(table);
  }
  // A picture is a link to itself: where the page is narrow it can be opened as large as it is.
  for (const picture of document.querySelectorAll("article img")) {
    if (picture.closest("a, .explorer")) continue;
    const link = document.createElement("a");
    link.href = picture.src;
    picture.replaceWith(link);
    link.append(picture);
  }
  // A claim that a link names is unfolded.
  const open = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") target.open = true;
  };
  window.addEventListener("hashchange", open);
  open();
});
