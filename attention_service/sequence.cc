#include "attention_service/sequence.h"

#include <utility>

namespace atl::attention {
namespace {

std::vector<uint32_t> AllIds(const atollpb::v1::RunStart& start) {
  std::vector<uint32_t> ids(start.prompt_ids().begin(), start.prompt_ids().end());
  ids.insert(ids.end(), start.generated_ids().begin(), start.generated_ids().end());
  return ids;
}

}  // namespace

Sequence::Sequence(uint64_t id, atollpb::v1::RunStart request, std::shared_ptr<RunSink> run_sink,
                   absl::Time arrival)
    : sequence_id(id),
      start(std::move(request)),
      sink(std::move(run_sink)),
      arrived(arrival),
      ids(AllIds(start)),
      prompt_size(start.prompt_ids_size()),
      sampler(start.sampling(), std::span(ids).first(prompt_size)),
      stop_ids(start.stop_token_ids().begin(), start.stop_token_ids().end()) {
  for (size_t i = prompt_size; i < ids.size(); ++i) sampler.Push(ids[i]);
}

}  // namespace atl::attention
