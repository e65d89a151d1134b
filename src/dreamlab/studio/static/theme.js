// Before the first paint: the theme that was chosen, or the system's. Classic script, so that nothing flashes.
document.documentElement.dataset.theme = localStorage.getItem("theme") || "auto";
