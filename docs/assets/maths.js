// arithmatex leaves formulas as \(...\) and \[...\].
for (const node of document.querySelectorAll(".arithmatex"))
  katex.render(node.textContent.trim().slice(2, -2), node, { displayMode: node.tagName === "DIV", throwOnError: true });
