#!/usr/bin/env bash
# Takes the screenshots of README.md and docs/monitoring.md with Chromium. Those of the phone come from the test that drives a browser
# through a re-authentication; the others come from a running demo, a minute and a half after its start:
#
#   cargo run --release -- demo            (or: docker compose -f config/compose.yml up --build, for the Grafana boards, too)
#   docs/screenshots.sh
#
# Without Grafana its screenshots are not replaced.
set -euo pipefail
cd "$(dirname "$0")"

daemon=${CONSENTRY_URL:-http://127.0.0.1:10143}
grafana=${GRAFANA_URL:-http://127.0.0.1:3000}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# shoot FILE WIDTH HEIGHT URL
shoot() {
  echo "$1"
  chromium --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync \
    --user-data-dir="$scratch/profile" --hide-scrollbars --window-size="$2,$3" --virtual-time-budget=30000 --screenshot="$1" "$4" 2>/dev/null
}

# Checked first, so that no screenshot of an error page is taken.
answers() { curl -fsS -o /dev/null "$1" 2>/dev/null; }

answers "$daemon/-/healthy" || { echo "no response from $daemon; start the demo first" >&2; exit 1; }
shoot status.png 1280 1000 "$daemon/"
CONSENTRY_SCREENSHOTS="$scratch" CONSENTRY_TEST_TOOLS=required cargo test --quiet --test integration -- browser::
cp "$scratch/mail-1.png" mail.png
cp "$scratch/landing-contoso.png" reauthenticate.png
cp "$scratch/green-contoso.png" green.png
if answers "$grafana/api/health"; then
  shoot grafana-fleet.png 1500 1400 "$grafana/d/consentry-fleet?from=now-15m&to=now&kiosk"
  shoot grafana-integration.png 1500 1000 "$grafana/d/consentry-integration?from=now-15m&to=now&kiosk&var-integration=wingtip"
fi
