// Shows exact times in the reader's time zone, and refreshes the page while nobody types. The page works without this script.
"use strict";
const localTimes = () => {
  for (const time of document.querySelectorAll("time[title]")) {
    time.title = new Date(time.dateTime).toLocaleString(undefined, { dateStyle: "full", timeStyle: "long" });
  }
};
const refresh = async () => {
  const busy = document.hidden || ["INPUT", "SELECT", "BUTTON"].includes(document.activeElement?.tagName);
  if (busy) return;
  const response = await fetch(location.href, { headers: { accept: "text/html" } }).catch(() => null);
  if (!response?.ok) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  document.querySelector("main").replaceWith(fresh.querySelector("main"));
  document.querySelector("footer").replaceWith(fresh.querySelector("footer"));
  document.querySelector("link[rel=icon]").href = fresh.querySelector("link[rel=icon]").href;
  localTimes();
};
localTimes();
setInterval(refresh, 15000);
