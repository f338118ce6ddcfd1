// Cuts jobs into units of work: groups of panels times blocks of rows. Private to kernels/.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/container/inlined_vector.h"
#include "kernels/cpu/table.h"

namespace atl::kernels {

struct Grain {
  int64_t panels = kUnitPanels;
  int64_t rows = kUnitRows;
};

// One job's share of the list: units are numbered with row blocks fastest, so that threads at work
// on the same panels share them in L3.
struct UnitPlace {
  int64_t job = 0;
  int64_t panel = 0;  // the first
  int64_t num_panels = 0;
  int64_t row = 0;  // the first
  int64_t num_rows = 0;
};

// Units of at least this many weight bytes: 2 microseconds of reading, against tens of nanoseconds
// to claim a unit.
inline constexpr int64_t kUnitBytes = 64 << 10;

class UnitGrid {
 public:
  explicit UnitGrid(Grain grain) : grain_(grain) {}

  // `panel_bytes`: of weights, to join the panels of small matrices in one unit.
  void Add(int64_t num_panels, int64_t panel_bytes, int64_t rows) {
    int64_t step = grain_.panels;
    if (step == kUnitPanels)
      step *= std::max<int64_t>(1, kUnitBytes / (step * std::max<int64_t>(1, panel_bytes)));
    jobs_.push_back({size_, num_panels, step, rows});
    size_ += (num_panels + step - 1) / step * Blocks(rows);
  }

  int64_t size() const { return size_; }

  UnitPlace At(int64_t unit) const {
    auto after = std::upper_bound(jobs_.begin(), jobs_.end(), unit,
                                  [](int64_t u, const Job& job) { return u < job.first; });
    const Job& job = *(after - 1);
    const int64_t i = unit - job.first, blocks = Blocks(job.rows);
    UnitPlace place;
    place.job = after - 1 - jobs_.begin();
    place.panel = i / blocks * job.step;
    place.num_panels = std::min(job.step, job.num_panels - place.panel);
    place.row = i % blocks * grain_.rows;
    place.num_rows = std::min(grain_.rows, job.rows - place.row);
    return place;
  }

 private:
  struct Job {
    int64_t first, num_panels, step, rows;
  };
  int64_t Blocks(int64_t rows) const { return (rows + grain_.rows - 1) / grain_.rows; }

  const Grain grain_;
  int64_t size_ = 0;
  absl::InlinedVector<Job, 64> jobs_;
};

// The coarsest grain that gives each thread about three units; `add` fills a grid with the jobs.
template <typename AddJobs>
UnitGrid MakeGrid(int num_threads, AddJobs add) {
  for (Grain grain : {Grain{4, kUnitRows}, Grain{4, 48}, Grain{2, 48}}) {
    UnitGrid grid(grain);
    add(grid);
    if (num_threads == 1 || grid.size() >= 3 * num_threads) return grid;
  }
  UnitGrid finest(Grain{1, 48});
  add(finest);
  return finest;
}

}  // namespace atl::kernels
