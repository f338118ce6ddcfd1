#include "model/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "model/safetensors_writer.h"
#include "tests/support/temp_dir.h"

namespace atl::model {
namespace {

using ::testing::HasSubstr;

std::string LittleEndian(uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(value >> (8 * i)));
  return bytes;
}

StatusOr<SafetensorsHeader> Parse(const std::string& json, int64_t data_bytes) {
  return ParseSafetensorsHeader(json, data_bytes, "x.safetensors");
}

TEST(Safetensors, ReadsTensorsInTheOrderOfTheirBytes) {
  const StatusOr<SafetensorsHeader> header = Parse(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},)"
      R"("a":{"data_offsets":[0,4],"shape":[2],"dtype":"BF16"},"scalar":{"dtype":"I64","shape":[],"data_offsets":[28,36]},)"
      R"("empty":{"dtype":"F32","shape":[0,5],"data_offsets":[36,36]}}   )",
      36);
  ASSERT_TRUE(header.ok()) << header.status();
  ASSERT_EQ(header->tensors.size(), 4);
  EXPECT_EQ(header->tensors[0].name, "a");
  EXPECT_EQ(header->tensors[0].dtype, "BF16");
  EXPECT_EQ(header->tensors[1].name, "b");
  EXPECT_EQ(header->tensors[1].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(header->tensors[1].begin, 4);
  EXPECT_EQ(header->tensors[1].end, 28);
  EXPECT_TRUE(header->tensors[2].shape.empty());
  EXPECT_EQ(header->metadata.at("format"), "pt");
}

struct Bad {
  std::string name;
  std::string json;
  int64_t data_bytes;
  std::string says;
};

class BadHeader : public ::testing::TestWithParam<Bad> {};

TEST_P(BadHeader, IsRefused) {
  const StatusOr<SafetensorsHeader> header = Parse(GetParam().json, GetParam().data_bytes);
  ASSERT_FALSE(header.ok());
  EXPECT_EQ(header.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(header.status().message()), HasSubstr(GetParam().says));
  EXPECT_THAT(std::string(header.status().message()), HasSubstr("x.safetensors"));
}

// One tensor "t" of the fields given.
std::string One(const std::string& fields) { return "{\"t\":{" + fields + "}}"; }

INSTANTIATE_TEST_SUITE_P(
    Each, BadHeader,
    ::testing::ValuesIn(std::vector<Bad>{
        {"Empty", "", 0, "does not begin with '{'"},
        {"LeadingSpace", " {}", 0, "does not begin with '{'"},
        {"Array", "[]", 0, "does not begin with '{'"},
        {"CutShort", R"({"t":{"dtype":"F32")", 0, "not valid JSON"},
        {"TextAfter", "{}x", 0, "not valid JSON"},
        {"BadUtf8", "{\"\xff\":1}", 0, "not valid JSON"},
        {"TensorIsNumber", R"({"t":1})", 0, "unexpected a number"},
        {"TensorIsArray", R"({"t":[]})", 0, "unexpected an array"},
        {"TensorIsNull", R"({"t":null})", 0, "unexpected null"},
        {"MetadataIsText", R"({"__metadata__":"x"})", 0, "unexpected a string"},
        {"MetadataOfNumber", R"({"__metadata__":{"x":1}})", 0, "unexpected a number"},
        {"MetadataNested", R"({"__metadata__":{"x":{}}})", 0, "unexpected an object"},
        {"MetadataTwice", R"({"__metadata__":{"x":"1","x":"2"}})", 0,
         "metadata key 'x' is given twice"},
        {"NameTwice",
         R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
         2, "key 't' is given twice"},
        {"FieldTwice", One(R"("dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1])"), 1,
         "has 'dtype' twice"},
        {"UnknownField", One(R"("dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1)"), 1,
         "unknown field 'x'"},
        {"NoDtype", One(R"("shape":[1],"data_offsets":[0,1])"), 1, "lacks"},
        {"NoShape", One(R"("dtype":"U8","data_offsets":[0,1])"), 1, "lacks"},
        {"NoOffsets", One(R"("dtype":"U8","shape":[1])"), 1, "lacks"},
        {"DtypeIsNumber", One(R"("dtype":1,"shape":[1],"data_offsets":[0,1])"), 1,
         "unexpected a number"},
        {"ShapeIsText", One(R"("dtype":"U8","shape":"1","data_offsets":[0,1])"), 1,
         "unexpected a string"},
        {"ShapeIsDeep", One(R"("dtype":"U8","shape":[[1]],"data_offsets":[0,1])"), 1,
         "unexpected an array"},
        {"ShapeIsFloat", One(R"("dtype":"U8","shape":[1.0],"data_offsets":[0,1])"), 1,
         "unexpected 1.0"},
        {"ShapeIsNegative", One(R"("dtype":"U8","shape":[-1],"data_offsets":[0,1])"), 1,
         "-1 is negative"},
        {"ShapeIsTooLarge",
         One(R"("dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,1])"), 1, "too large"},
        {"ShapeOverflows",
         One(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])"), 0,
         "overflows"},
        {"BitsOverflow", One(R"("dtype":"F32","shape":[576460752303423488],"data_offsets":[0,0])"),
         0, "overflows"},
        {"UnknownDtype", One(R"("dtype":"F33","shape":[1],"data_offsets":[0,1])"), 1,
         "unknown dtype 'F33'"},
        {"OddBits", One(R"("dtype":"F4","shape":[3],"data_offsets":[0,2])"), 2, "whole byte"},
        {"OneOffset", One(R"("dtype":"U8","shape":[1],"data_offsets":[0])"), 1,
         "has 1 data_offsets"},
        {"ThreeOffsets", One(R"("dtype":"U8","shape":[1],"data_offsets":[0,1,2])"), 1,
         "has 3 data_offsets"},
        {"BeginAfterEnd", One(R"("dtype":"U8","shape":[0],"data_offsets":[1,0])"), 1,
         "expected a range within 1"},
        {"EndOutside", One(R"("dtype":"U8","shape":[2],"data_offsets":[0,2])"), 1,
         "expected a range within 1"},
        {"TooFewBytes", One(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), 4,
         "has 4 bytes, expected 8"},
        {"TooManyBytes", One(R"("dtype":"F32","shape":[1],"data_offsets":[0,8])"), 8,
         "has 8 bytes, expected 4"},
        {"HoleAtStart", One(R"("dtype":"U8","shape":[1],"data_offsets":[1,2])"), 2,
         "begins at 1, expected 0"},
        {"HoleAtEnd", One(R"("dtype":"U8","shape":[1],"data_offsets":[0,1])"), 2,
         "has 2 bytes of data, expected 1"},
        {"Overlap",
         R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
         3, "begins at 1, expected 2"},
        {"SameBytes",
         R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
         2, "begins at 0, expected 2"}}),
    [](const auto& info) { return info.param.name; });

// Texts near a good one: whatever comes out is an error, or a header that tiles its data.
TEST(Safetensors, NoTextBreaksTheParser) {
  const std::string good =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},)"
      R"("a":{"data_offsets":[0,4],"shape":[2],"dtype":"BF16"}})";
  const std::string alphabet =
      "{}[]\",:0123456789-.eE\\u \x00\xff\xc3" + std::string(1, '\0') + "nulltruefalse";
  std::mt19937 random(20240607);
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text = good;
    for (int edits = 1 + random() % 4; edits > 0; --edits) {
      const size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = alphabet[random() % alphabet.size()];
          break;
        case 1:
          text.erase(at, 1 + random() % 8);
          break;
        case 2:
          text.insert(at, 1, alphabet[random() % alphabet.size()]);
          break;
        case 3:
          text.insert(at, text.substr(random() % text.size(), random() % 40));
          break;
      }
      if (text.empty()) text.push_back('{');
    }
    const StatusOr<SafetensorsHeader> header = Parse(text, 28);
    if (!header.ok()) continue;
    ++accepted;
    int64_t covered = 0;
    for (const SafetensorsEntry& tensor : header->tensors) {
      ASSERT_EQ(tensor.begin, covered) << text;
      covered = tensor.end;
    }
    ASSERT_EQ(covered, 28) << text;
  }
  EXPECT_GT(accepted, 0) << "the edits are small enough to leave some texts good";
}

class SafetensorsFile : public ::testing::Test {
 protected:
  StatusOr<SafetensorsHeader> Read(const std::string& bytes) {
    const std::string path = dir_.File("x.safetensors");
    EXPECT_TRUE(WriteFileAtomically(path, bytes).ok());
    ATL_ASSIGN_OR_RETURN(const RandomAccessFile file, RandomAccessFile::Open(path));
    return ReadSafetensorsHeader(file);
  }

  atl::testing::TempDir dir_;
};

TEST_F(SafetensorsFile, DataBeginsAfterTheHeader) {
  const std::string json = One(R"("dtype":"U8","shape":[3],"data_offsets":[0,3])");
  const StatusOr<SafetensorsHeader> header = Read(LittleEndian(json.size()) + json + "abc");
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->data_offset, 8 + json.size());
}

TEST_F(SafetensorsFile, CutShortIsDataLoss) {
  EXPECT_EQ(Read("").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Read("1234567").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Read(LittleEndian(3) + "{}").status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(SafetensorsFile, HeaderLimitIsTheFormats) {
  const StatusOr<SafetensorsHeader> over = Read(LittleEndian(100'000'001) + "{}");
  EXPECT_EQ(over.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(over.status().message()), HasSubstr("expected at most 100000000"));
  EXPECT_EQ(Read(LittleEndian(UINT64_MAX) + "{}").status().code(),
            absl::StatusCode::kInvalidArgument);
  // At the limit it is the file that is too short, not the header that is too long.
  EXPECT_EQ(Read(LittleEndian(100'000'000) + "{}").status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(SafetensorsFile, WhatIsWrittenIsRead) {
  std::vector<SafetensorsEntry> tensors = {
      {.name = "a \"quoted\" name", .dtype = "BF16", .shape = {3, 5}},
      {.name = "b", .dtype = "F32", .shape = {}},
      {.name = "c", .dtype = "F8_E4M3", .shape = {7}}};
  const std::string made = MakeSafetensorsHeader(tensors, {{"format", "pt"}});
  EXPECT_EQ(made.size() % 8, 0);
  const StatusOr<SafetensorsHeader> header = Read(made + std::string(30 + 4 + 7, 'x'));
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->data_offset, made.size());
  EXPECT_EQ(header->metadata.at("format"), "pt");
  ASSERT_EQ(header->tensors.size(), 3);
  EXPECT_EQ(header->tensors[0].name, "a \"quoted\" name");
  EXPECT_EQ(header->tensors[0].shape, (std::vector<int64_t>{3, 5}));
  EXPECT_EQ(header->tensors[1].begin, 30);
  EXPECT_EQ(header->tensors[2].dtype, "F8_E4M3");
  EXPECT_EQ(header->tensors[2].end, 41);
  std::vector<SafetensorsEntry> none;
  EXPECT_TRUE(Read(MakeSafetensorsHeader(none, {{"format", "pt"}})).ok());
  EXPECT_TRUE(Read(MakeSafetensorsHeader(none, {})).ok());
}

TEST_F(SafetensorsFile, WriterShowsAFileOnlyWhenItIsWhole) {
  const std::string path = dir_.File("made.safetensors");
  {
    StatusOr<SafetensorsWriter> writer =
        SafetensorsWriter::Create(path, {{.name = "a", .dtype = "U8", .shape = {4}}}, {});
    ASSERT_TRUE(writer.ok()) << writer.status();
    EXPECT_TRUE(FileExists(path + ".part"));
  }
  EXPECT_FALSE(FileExists(path));
  EXPECT_FALSE(FileExists(path + ".part"));

  StatusOr<SafetensorsWriter> writer = SafetensorsWriter::Create(
      path,
      {{.name = "a", .dtype = "U8", .shape = {4}}, {.name = "b", .dtype = "U8", .shape = {2}}}, {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE(writer->WriteAt(1, 1, "6", 1).ok());
  ASSERT_TRUE(writer->WriteAt(0, 0, "1234", 4).ok());
  ASSERT_TRUE(writer->WriteAt(1, 0, "5", 1).ok());
  ASSERT_TRUE(writer->Finish().ok());
  EXPECT_TRUE(ReadFile(path)->ends_with("123456"));
  EXPECT_FALSE(FileExists(path + ".part"));
  EXPECT_TRUE(Read(*ReadFile(path)).ok());
}

TEST_F(SafetensorsFile, WriterSaysWhenThereIsNoRoom) {
  const std::string path = dir_.File("made.safetensors");
  const StatusOr<SafetensorsWriter> writer = SafetensorsWriter::Create(
      path, {{.name = "a", .dtype = "U8", .shape = {int64_t{1} << 61}}}, {});
  EXPECT_FALSE(writer.ok());
  EXPECT_FALSE(FileExists(path + ".part"));
}

}  // namespace
}  // namespace atl::model
