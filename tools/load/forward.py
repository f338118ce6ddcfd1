"""Requests for ExpertService.Forward alone: rows for the experts that a node holds."""

import base64
import json
import os
import random
import struct

from atoll_client import api

ROWS = (1, 8, 32)
PAIRS_A_ROW = 6


class Batches:
    """Requests of 1, 8 and 32 rows for each layer that the node at `address` holds experts of."""

    def __init__(self, address):
        with api.Client(address) as client:
            node = client.describe_expert()
        chance = random.Random(1)
        held = {}
        for expert in node.experts:
            held.setdefault(expert.layer, []).append(expert.expert)
        if not held:
            raise RuntimeError(f"the node at {address} holds no experts")
        self.requests = [make_request(chance, node.hidden_size, layer, experts, rows)
                         for layer, experts in sorted(held.items()) for rows in ROWS]

    def write(self, folder):
        """ghz's data file: request i of a run is the (i modulo their number)-th."""
        path = os.path.join(folder, "forward.data")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.requests, file)
        return path

    def pairs(self, num_calls):
        return sum(len(self.requests[i % len(self.requests)]["row"]) for i in range(num_calls))

    def problems(self, served, num_calls):
        computed = served.value("atoll_expert_rows_total")
        expected = self.pairs(num_calls)
        return [] if computed == expected else [f"atoll_expert_rows_total: expected {expected}, found {computed:g}"]


def make_request(chance, hidden_size, layer, experts, rows):
    values = [chance.gauss(0, 1) for _ in range(rows * hidden_size)]
    pairs = [(row, expert) for row in range(rows)
             for expert in sorted(chance.sample(experts, min(PAIRS_A_ROW, len(experts))))]
    return {"layer": layer, "x": base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode(),
            "row": [row for row, _ in pairs], "expert": [expert for _, expert in pairs]}
