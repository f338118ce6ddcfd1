#include "base/log.h"
#include "router_service/front_door/front_door.h"

namespace atl::front_door {

StatusOr<ServedModel> LoadServedModel(const model::Checkpoint* checkpoint,
                                      const model::NumericProfile& profile) {
  ServedModel served;
  served.checkpoint = checkpoint;
  served.profile = profile;
  StatusOr<std::unique_ptr<text::Tokenizer>> tokenizer = text::Tokenizer::Load(checkpoint->dir());
  if (absl::IsNotFound(tokenizer.status())) {
    LogWarning("%s; token_ids alone are served", std::string(tokenizer.status().message()));
    return served;
  }
  if (!tokenizer.ok()) return tokenizer.status();  // it names the folder
  served.tokenizer = *std::move(tokenizer);
  if (served.tokenizer->chat_template().empty()) return served;
  StatusOr<std::unique_ptr<text::ChatTemplate>> chat =
      text::ChatTemplate::Parse(served.tokenizer->chat_template());
  if (chat.ok()) {
    served.chat_template = *std::move(chat);
  } else {
    served.chat_template_error = std::string(chat.status().message());
    LogWarning("chat_template of %s: %s; `messages` are refused", checkpoint->dir(),
               served.chat_template_error);
  }
  return served;
}

}  // namespace atl::front_door
