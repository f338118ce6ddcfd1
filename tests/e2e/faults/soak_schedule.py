"""The order of a soak's faults: a function of its seed and of who takes part, never of time."""

import dataclasses
import itertools
import random

# (kind, weight)
KINDS = (("kill", 7), ("several", 2), ("stop", 3), ("drain", 3), ("restart", 1), ("join", 3), ("leave", 2),
         ("hang up", 2), ("cut client", 2), ("cut host", 3))
ROLES = {"expert": 3, "attention": 2, "router": 2}
MENDED_FIRST = 0.75  # of the faults; the others come while what was before is being mended
MAX_JOINED = 2
# A sequence that lost three attention nodes since its last token ends with an error: rightly, but a soak has no errors.
MAX_ATTENTION_HITS = 2
MAX_SEVERAL = 4


@dataclasses.dataclass(frozen=True)
class Fault:
    kind: str
    names: tuple = ()  # of processes
    role: str = ""
    seconds: float = 0.0  # that a stop or a cut lasts
    clients: tuple = ()  # (of hang-ups: tokens read first; of cuts: the stream)
    mended_first: bool = True
    pause_s: float = 0.0  # before it

    @property
    def label(self):
        """What its gaps are counted under."""
        return f"{self.kind} {self.role}".strip()

    def __str__(self):
        words = [self.kind, *(self.names or (self.role,))]
        if self.seconds:
            words.append(f"for {self.seconds:.1f} s")
        if self.clients:
            words.append(f"{len(self.clients)} clients")
        return " ".join(word for word in words if word) + ("" if self.mended_first else " (at once)")


class Schedule:
    """An endless iterator of faults."""

    def __init__(self, seed, supervised, hosted, num_streams):
        """supervised, hosted: names, whose first part is the role; hosted ones can be cut off."""
        self._random = random.Random(seed)
        self._supervised, self._hosted, self._joined = list(supervised), list(hosted), []
        self._num_streams = num_streams
        self._numbers = itertools.count()
        self._attention_hits = 0

    def __iter__(self):
        return self

    def __next__(self):
        kinds = [(kind, weight) for kind, weight in KINDS if kind != "cut host" or self._hosted]
        kind, = self._random.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
        if kind == "join" and len(self._joined) == MAX_JOINED:
            kind = "leave"
        if kind == "leave" and not self._joined:
            kind = "join"
        fault = getattr(self, "_" + kind.replace(" ", "_"))()
        return dataclasses.replace(fault, mended_first=self._mended_first(fault),
                                   pause_s=self._random.uniform(0.1, 0.8))

    def _mended_first(self, fault):
        hits = sum(role_of(name) == "attention" for name in fault.names)
        mended = self._random.random() < MENDED_FIRST or self._attention_hits + hits > MAX_ATTENTION_HITS
        self._attention_hits = hits if mended else self._attention_hits + hits
        return mended

    def _role(self):
        return self._random.choices(list(ROLES), list(ROLES.values()))[0]

    def _one(self, names):
        """One of a role that is drawn first."""
        role = self._role()
        return self._random.choice([name for name in names if role_of(name) == role])

    def _seconds(self):
        return self._random.uniform(0.2, 1.5) if self._random.random() < 0.7 else self._random.uniform(3, 7)

    def _kill(self):
        name = self._one(self._supervised + self._hosted + self._joined)
        if name in self._joined:
            self._joined.remove(name)
        return Fault("kill", (name,), role_of(name))

    def _several(self):
        count = self._random.randint(2, min(MAX_SEVERAL, len(self._supervised)))
        return Fault("several", tuple(self._random.sample(self._supervised, count)))

    def _stop(self):
        name = self._one(self._supervised + self._hosted)
        return Fault("stop", (name,), role_of(name), self._seconds())

    def _drain(self):
        name = self._one(self._supervised + self._hosted)
        return Fault("drain", (name,), role_of(name))

    def _restart(self):
        role = self._role()
        return Fault("restart", tuple(name for name in self._supervised if role_of(name) == role), role)

    def _join(self):
        role = self._random.choice(["expert", "attention"])
        self._joined.append(f"{role}-joined-{next(self._numbers)}")
        return Fault("join", (self._joined[-1],), role)

    def _leave(self):
        name = self._joined.pop(self._random.randrange(len(self._joined)))
        return Fault("leave", (name,), role_of(name))

    def _hang_up(self):
        return Fault("hang up", clients=tuple(self._random.randint(0, 60) for _ in range(self._random.randint(1, 6))))

    def _cut_client(self):
        count = self._random.randint(1, self._num_streams)
        return Fault("cut client", clients=tuple(self._random.sample(range(self._num_streams), count)))

    def _cut_host(self):
        name = self._random.choice(self._hosted)
        return Fault("cut host", (name,), role_of(name), self._seconds())


def role_of(name):
    return name.split("-")[0]
