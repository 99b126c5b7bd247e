// SPDX-License-Identifier: Apache-2.0
#include "image/metadata.h"

#include <nlohmann/json.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include "image/tar_fixture.h"

namespace caisson::image {
namespace {

using testing::HasSubstr;

class MetadataTest : public testing::Test {
 protected:
  std::map<std::string, std::string> All(Metadata& metadata, const char* kind) {
    std::map<std::string, std::string> all;
    auto read = metadata.ForEach(kind, [&](const std::string& id, const Json& record) -> Result<> {
      all[id] = record.dump();
      return {};
    });
    EXPECT_TRUE(read) << read.error().message;
    return all;
  }
  void Sql(const std::string& text) {
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open(path_.c_str(), &db), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(db, text.c_str(), nullptr, nullptr, nullptr), SQLITE_OK) << sqlite3_errmsg(db);
    sqlite3_close(db);
  }
  Scratch scratch_;
  std::string path_ = scratch_.path() + "/images.db";
};

TEST_F(MetadataTest, RemembersAcrossOpenings) {
  {
    auto metadata = Metadata::Open(path_).value();
    ASSERT_TRUE(metadata->Put("a", "1", Json{{"x", 1}}));
    ASSERT_TRUE(metadata->Put("a", "1", Json{{"x", 2}}));
    ASSERT_TRUE(metadata->Put("a", "2", Json("gone")));
    ASSERT_TRUE(metadata->Put("b", "1", Json("other kind")));
    ASSERT_TRUE(metadata->Delete("a", "2"));
    ASSERT_TRUE(metadata->Delete("a", "never was"));
    ASSERT_TRUE(metadata->PutAll({{"c", "1", "1"}, {"c", "2", "2"}}));
  }
  auto metadata = Metadata::Open(path_).value();
  EXPECT_EQ(All(*metadata, "a"), (std::map<std::string, std::string>{{"1", R"({"x":2})"}}));
  EXPECT_EQ(All(*metadata, "b").size(), 1u);
  EXPECT_EQ(All(*metadata, "c").size(), 2u);
}

TEST_F(MetadataTest, PutAllIsAllOrNothing) {
  auto metadata = Metadata::Open(path_).value();
  Sql("CREATE TRIGGER t BEFORE INSERT ON records WHEN NEW.id = 'bad' BEGIN SELECT RAISE(ABORT, 'refused'); END");
  auto failed = metadata->PutAll({{"k", "good", "1"}, {"k", "bad", "1"}});
  ASSERT_FALSE(failed);
  EXPECT_THAT(failed.error().message, HasSubstr(path_));
  EXPECT_TRUE(All(*metadata, "k").empty());
  EXPECT_TRUE(metadata->PutAll({{"k", "good", "1"}})) << "the failed one left no transaction open";
}

TEST_F(MetadataTest, WhatIsNotOursIsRefused) {
  { (void)Metadata::Open(path_).value(); }
  Sql("PRAGMA user_version=99");
  auto newer = Metadata::Open(path_);
  ASSERT_FALSE(newer);
  EXPECT_EQ(newer.error().code, Code::kFailedPrecondition);
  EXPECT_THAT(newer.error().message, HasSubstr("schema 99"));
  scratch_.Write("garbage.db", std::string(10'000, 'g'));
  auto garbage = Metadata::Open(scratch_.path() + "/garbage.db");
  ASSERT_FALSE(garbage);
  EXPECT_EQ(garbage.error().code, Code::kDataLoss);
  scratch_.Write("empty.db", "");
  EXPECT_TRUE(Metadata::Open(scratch_.path() + "/empty.db")) << "made, and the machine died before the first record";
  EXPECT_FALSE(Metadata::Open(scratch_.path() + "/no/folder.db"));
}

TEST_F(MetadataTest, ADamagedRecordIsNamed) {
  auto metadata = Metadata::Open(path_).value();
  Sql("INSERT INTO records VALUES ('image', 'sha256:1', '{broken')");
  auto read = metadata->ForEach("image", [](const std::string&, const Json&) -> Result<> { return {}; });
  ASSERT_FALSE(read);
  EXPECT_THAT(read.error().message, HasSubstr("sha256:1"));
}

}  // namespace
}  // namespace caisson::image
