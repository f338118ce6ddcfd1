#include "text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "base/file.h"

namespace atl::text {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

constexpr char kBos[] = "<｜begin▁of▁sentence｜>", kEos[] = "<｜end▁of▁sentence｜>";

Json Golden(const std::string& name) {
  return Json::parse(*ReadFile("tests/golden/chat_template/" + name));
}

std::vector<ChatMessage> Messages(const Json& json) {
  std::vector<ChatMessage> messages;
  for (const Json& message : json) messages.push_back({message["role"], message["content"]});
  return messages;
}

StatusOr<std::string> Render(const std::string& source, const std::vector<ChatMessage>& messages) {
  ATL_ASSIGN_OR_RETURN(const auto chat_template, ChatTemplate::Parse(source));
  return chat_template->Render(messages, kBos, kEos);
}

// Ends in a user's message: nothing is continued.
const std::vector<ChatMessage> kQuestion = {{"user", "Hi"}};

TEST(ChatTemplate, ModelsAsJinja2Renders) {
  const Json golden = Golden("models.json");
  EXPECT_EQ(golden["templates"].size(), 7);
  int rendered = 0;
  for (const Json& item : golden["cases"]) {
    const std::string source = golden["templates"][item["template"].get<std::string>()];
    const auto text = Render(source, Messages(item["messages"]));
    SCOPED_TRACE(item["template"].get<std::string>() + " " + item["messages"].dump());
    if (item["expected"].is_null()) {
      EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument) << text.status();
    } else {
      ASSERT_TRUE(text.ok()) << text.status();
      EXPECT_EQ(*text, item["expected"].get<std::string>());
      ++rendered;
    }
  }
  EXPECT_GT(rendered, 150);
}

TEST(ChatTemplate, LanguageAsJinja2HasIt) {
  const Json golden = Golden("language.json");
  const auto messages = Messages(golden["messages"]);
  int rendered = 0, raised = 0, unsupported = 0;
  for (const Json& item : golden["cases"]) {
    const std::string source = item["source"];
    SCOPED_TRACE(source);
    const auto text = Render(source, messages);
    if (text.status().code() == absl::StatusCode::kUnimplemented) {
      // Only the random ones may ask for what is outside the subset.
      EXPECT_THAT(source, HasSubstr("set n = 3")) << text.status();
      ++unsupported;
    } else if (item["expected"].is_null()) {
      EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument)
          << (text.ok() ? *text : text.status().ToString());
      EXPECT_THAT(std::string(text.status().message()), HasSubstr("chat template"));
      ++raised;
    } else {
      ASSERT_TRUE(text.ok()) << text.status();
      EXPECT_EQ(*text, item["expected"].get<std::string>());
      ++rendered;
    }
  }
  EXPECT_GT(rendered, 300);
  EXPECT_GT(raised, 100);
  EXPECT_LT(unsupported, 40);
}

TEST(ChatTemplate, NamesWhatIsOutsideTheSubsetAndItsLine) {
  const std::pair<const char*, const char*> cases[] = {
      {"a\n{% macro f() %}{% endmacro %}", "line 2: block macro"},
      {"{% include 'x' %}", "block include"},
      {"{% raw %}{{ x }}{% endraw %}", "raw block"},
      {"{% set x %}y{% endset %}", "set with a body"},
      {"{% set a, b = 1, 2 %}", "set of several names"},
      {"\n\n{{ strftime_now('%d') }}", "line 3: function strftime_now"},
      {"{{ 'a'.upper() }}", "method upper"},
      {"{{ 'a' | upper }}", "filter upper"},
      {"{{ 1 is odd }}", "test odd"},
      {"{{ 1.5 }}", "number 1.5"},
      {"{{ 0x10 }}", "number 0x10"},
      {"{{ 2 ** 3 }}", "operator **"},
      {"{{ 4 / 2 }}", "operator /"},
      {"{{ (1, 2) }}", "tuple"},
      {"{{ 1, 2 }}", "tuple"},
      {"{{ f(*x) }}", "function f"},
      {"{{ range(*x) }}", "argument *"},
      {"{{ x.items }}", "method items without a call"},
      {"{{ x[0]() }}", "a call of something that is no name"},
      {"{% for x in [] recursive %}{% endfor %}", "recursive for"},
      {"{{ '\\N{DASH}' }}", "string escape \\N"},
      {"{{ é }}", "a name that is not ASCII"},
  };
  for (const auto& [source, what] : cases) {
    const auto parsed = ChatTemplate::Parse(source);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kUnimplemented)
        << source << parsed.status();
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(what)) << source;
  }
  for (const char* source :
       {"{{ [1] }}", "{{ messages }}", "{{ 'a' % 1 }}", "{{ [1] * 2 }}",
        "{% for x in 'a' %}{{ loop }}{% endfor %}", "{% set n = namespace() %}{{ [n] }}",
        "{% set n = namespace() %}{% set n.n = n %}"}) {
    EXPECT_EQ(Render(source, kQuestion).status().code(), absl::StatusCode::kUnimplemented)
        << source;
  }
}

TEST(ChatTemplate, ErrorsNameTheLine) {
  const std::pair<const char*, const char*> cases[] = {
      {"a\n\n{{ raise_exception('only users') }}", "line 3: only users"},
      {"a\n{% for m in messages %}\n{{ m.name + 'x' }}{% endfor %}",
       "line 3: 'name' of a dict is undefined"},
      {"{% if true %}\nx", "line 2: the template ends where endif is expected"},
      {"\n{{ 9223372036854775807 }}", "line 2: number"},
      {"\n{{ 999999999999999999 * 999999999999999999 }}",
       "line 2: 999999999999999999 * 999999999999999999: beyond 64 bits"},
  };
  for (const auto& [source, what] : cases) {
    EXPECT_THAT(std::string(Render(source, kQuestion).status().message()), HasSubstr(what))
        << source;
  }
}

// begin, then `open` many times, middle, `close` as many times, and the end of a tag.
std::string Repeated(const std::string& begin, const std::string& open, const std::string& middle,
                     const std::string& close) {
  std::string source = begin;
  for (int i = 0; i < 100000; ++i) source += open;
  source += middle;
  for (int i = 0; i < 100000; ++i) source += close;
  source += " }}";
  return source;
}

TEST(ChatTemplate, WorkOutputAndDepthAreBounded) {
  const std::string loop = "{% for i in range(100000) %}";
  const std::pair<std::string, const char*> cases[] = {
      {loop + loop + "{% endfor %}{% endfor %}", "steps of work"},
      {"{% set n = namespace(s='x') %}" + loop + "{% set n.s = n.s + n.s %}{% endfor %}",
       "steps of work"},
      {"{% set s = 'x' * 60000000 %}{{ s }}{{ s }}", "bytes of output"},
      {"{{ 'x' * 1000000000000 }}", "a text of more than"},
      {"{% set n = namespace(l=[]) %}" + loop + "{% set n.l = [n.l] %}{% endfor %}",
       "nested deeper"},
      {"{% set n = namespace(l=[1]) %}" + loop + "{% set n.l = n.l + n.l %}{% endfor %}",
       "a list of more than"},
      {"{% set n = namespace(a=[], b=[]) %}{% for i in range(50) %}{% set n.a = [n.a, n.a] %}{% "
       "set n.b = [n.b, n.b] %}"
       "{% endfor %}{{ n.a == n.b }}",
       "steps of work"},
      {"{% set n = namespace(a=[]) %}{% for i in range(50) %}{% set n.a = [n.a, n.a] %}{% endfor "
       "%}{{ n.a | tojson }}",
       "steps of work"},
      {loop + "{% set x = messages[0].content * 50000000 %}{% endfor %}", "a text of more than"},
      {Repeated("{{ ", "(", "1", ")"), "nested deeper"},
      {Repeated("{{ ", "[", "", "]"), "nested deeper"},
      {Repeated("{{ ", "-", "1", ""), "signs"},
      {"{% set x = range(100001) %}", "range: more than"},
  };
  for (const auto& [source, what] : cases) {
    const auto text = Render(source, kQuestion);
    EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument)
        << source.substr(0, 80) << text.status();
    EXPECT_THAT(std::string(text.status().message()), HasSubstr(what)) << source.substr(0, 80);
  }
  for (const std::string& source :
       {Repeated("{{ ", "not ", "1", ""), Repeated("{{ 1", " + 1", "", ""),
        Repeated("", "{% if 1 %}", "x", "")}) {
    EXPECT_EQ(Render(source, kQuestion).status().code(), absl::StatusCode::kInvalidArgument)
        << source.substr(0, 80);
  }
}

// A long conversation is far below the bounds.
TEST(ChatTemplate, LongConversationsAreRendered) {
  const std::string source = Golden("models.json")["templates"]["v3_1"];
  std::vector<ChatMessage> messages;
  for (int i = 0; i < 10000; ++i)
    messages.push_back({i % 2 == 0 ? "user" : "assistant", std::string(1000, 'x')});
  messages.push_back({"user", "?"});
  const auto text = Render(source, messages);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_GT(text->size(), 10'000'000);
}

TEST(ChatTemplate, ContinuesTheLastMessage) {
  const std::string source =
      "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{{ 'G' if "
      "add_generation_prompt }}";
  const std::string stripping =
      "{% for m in messages %}<{{ m.role }}>{{ m.content.strip() }}</>{% endfor %}";
  EXPECT_EQ(*Render(source, {{"user", "a"}}), "<user>a</>G");
  EXPECT_EQ(*Render(source, {{"user", "a"}, {"assistant", " b "}}), "<user>a</><assistant> b ");
  EXPECT_EQ(*Render(stripping, {{"user", " a "}, {"assistant", " b "}}), "<user>a</><assistant>b");
  EXPECT_EQ(*Render(source, {{"assistant", "</>"}, {"assistant", "</>"}}),
            "<assistant></></><assistant></>");
  // What the mark is made of may be in the messages, in every length.
  EXPECT_EQ(*Render(source, {{"assistant",
                              "\x02"
                              "continue"}}),
            "<assistant>\x02"
            "continue");
  const std::string marks = std::string("\x02") + "continue\x03\x03 \x02" + "continue\x03\x03\x03";
  EXPECT_EQ(*Render(source, {{"assistant", marks}}), "<assistant>" + marks);
  // A megabyte of it takes no longer than other text.
  const std::string many = std::string("\x02") + "continue" + std::string(1 << 20, '\x03');
  EXPECT_EQ(*Render(source, {{"assistant", many}}), "<assistant>" + many);
  const auto hidden = Render("{{ messages | length }}", {{"assistant", "b"}});
  EXPECT_EQ(hidden.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(hidden.status().message()), HasSubstr("does not show the last message"));
}

TEST(ChatTemplate, IllFormedContentsBecomeReplacementCharacters) {
  EXPECT_EQ(*Render("{{ messages[0].content }}", {{"user", "a\xff\xe4\xb8z"}}), "a\uFFFD\uFFFDz");
  EXPECT_EQ(ChatTemplate::Parse("a\xff").status().code(), absl::StatusCode::kInvalidArgument);
}

// Broken templates give a status, never a crash.
TEST(ChatTemplate, SurvivesDamagedTemplates) {
  const Json golden = Golden("models.json");
  std::mt19937 rng(5);
  const std::string pieces[] = {"{%", "%}", "{{",    "}}",     "'",  "(",  ")",    "[", "]",
                                "-",  "if", "endif", "endfor", "\\", "{#", "\xe4", "|", "."};
  int ok = 0, refused = 0;
  for (const auto& [name, source] : golden["templates"].items()) {
    for (int round = 0; round < 300; ++round) {
      std::string damaged = source;
      for (int i = rng() % 3; i >= 0; --i) {
        const size_t at = rng() % damaged.size();
        if (rng() % 2) {
          damaged.erase(at, 1 + rng() % 8);
        } else {
          damaged.insert(at, pieces[rng() % std::size(pieces)]);
        }
        if (damaged.empty()) damaged.push_back('x');
      }
      (Render(damaged, {{"user", "a"}, {"assistant", "b"}, {"user", "c"}}).ok() ? ok : refused) +=
          1;
    }
  }
  EXPECT_GT(ok, 50);
  EXPECT_GT(refused, 50);
}

}  // namespace
}  // namespace atl::text
