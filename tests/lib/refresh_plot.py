"""Draws docs/refresh-outage.svg from what the slow test of the outage wrote: refresh_plot.py INPUT OUTPUT.

INPUT holds lines of `seconds requests`, one for each ten seconds. Needs matplotlib.
"""

import sys

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "token-broker"
import matplotlib.pyplot as plt

source, target = sys.argv[1:]
rows = [line.split() for line in open(source)]
minutes = [int(seconds) / 60 for seconds, _ in rows]
rate = [int(count) / 10 for _, count in rows]

figure, axes = plt.subplots(figsize=(9, 3.6))
axes.axvspan(20, 50, color="#d65f5f", alpha=0.15, linewidth=0, label="provider down")
axes.fill_between(minutes, rate, step="post", color="#4878a8", linewidth=0, label="token requests")
axes.set_xlim(0, 80)
axes.set_ylim(bottom=0)
axes.set_xlabel("minutes")
axes.set_ylabel("requests a second, mean of 10 s")
axes.set_title("10,000 connections, provider down from minute 20 to 50")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, loc="upper left")
figure.tight_layout()
figure.savefig(target, metadata={"Date": None})
