#include "kernels/quantize.h"

#include <algorithm>

#include "base/buffer.h"
#include "kernels/parallel.h"

namespace atl::kernels {
namespace {

QuantGroup* ThreadMemory(int64_t groups) {
  thread_local Buffer buffer;
  buffer.Grow(groups * sizeof(QuantGroup));
  return buffer.as<QuantGroup>();
}

}  // namespace

int64_t QuantizedInputs::Add(const float* x, int64_t ldx, int64_t k, int64_t rows) {
  if (!sources_.empty()) {
    Source& last = sources_.back();
    if (last.x == x && last.ldx == ldx && last.k == k) {
      last.rows = std::max(last.rows, rows);
      return static_cast<int64_t>(sources_.size()) - 1;
    }
  }
  sources_.push_back({.x = x, .ldx = ldx, .k = k, .rows = rows});
  return static_cast<int64_t>(sources_.size()) - 1;
}

void QuantizedInputs::Run(const KernelContext& ctx) {
  int64_t groups = 0, rows = 0, most = 0;
  for (Source& source : sources_) {
    source.first_group = groups;
    source.first_row = rows;
    groups += source.rows * NumGroups(source.k);
    rows += source.rows;
    most = std::max(most, source.k);
  }
  if (groups == 0) return;
  QuantGroup* data = ThreadMemory(groups);
  data_ = data;
  ForRows(ctx, rows, most, [&](int64_t row) {
    const Source& source =
        *(std::upper_bound(sources_.begin(), sources_.end(), row,
                           [](int64_t r, const Source& s) { return r < s.first_row; }) -
          1);
    const int64_t i = row - source.first_row;
    ctx.table->quantize_row(source.x + i * source.ldx, source.k,
                            data + source.first_group + i * NumGroups(source.k));
  });
}

QuantizedRows QuantizedInputs::At(int64_t i) const {
  const Source& source = sources_[i];
  return {.data = data_ + source.first_group, .stride = NumGroups(source.k)};
}

}  // namespace atl::kernels
