// SPDX-License-Identifier: Apache-2.0
#include "image/metadata.h"

#include <sqlite3.h>

#include <cerrno>
#include <mutex>

#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "base/scope_exit.h"
#include "sys/disk_reserve.h"

namespace caisson::image {
namespace {

// Room for what a few hundred deletions write. Refilled by what is written while there is room.
constexpr size_t kReserveBytes = 512 << 10;

struct CloseDb {
  void operator()(sqlite3* db) const { sqlite3_close_v2(db); }
};
struct FinalizeStatement {
  void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using Statement = std::unique_ptr<sqlite3_stmt, FinalizeStatement>;

class SqliteMetadata : public Metadata {
 public:
  explicit SqliteMetadata(const std::string& path) : path_(path), reserve_(path + ".reserve", kReserveBytes) {}

  Result<> Open() {
    auto opened = OpenOnce();
    // SQLite makes files of its own to open one: on a full disk there is room only for the reserve.
    if (!opened && opened.error().code == Code::kResourceExhausted && reserve_.Spend()) opened = OpenOnce();
    if (opened) reserve_.Fill();
    return opened;
  }

  Result<> OpenOnce() {
    sqlite3* raw = nullptr;
    int status = sqlite3_open_v2(path_.c_str(), &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nullptr);
    db_.reset(raw);
    if (status != SQLITE_OK) return Failed("open");
    sqlite3_busy_timeout(raw, 5000);
    TRY(Execute("PRAGMA journal_mode=WAL"));
    TRY(Execute("PRAGMA synchronous=NORMAL"));
    int version = TRY(UserVersion());
    if (version > kSchemaVersion) {
      return MakeError(Code::kFailedPrecondition, "image index '{}' has schema {}, this caissond knows {}: it was written by a newer one", path_, version, kSchemaVersion);
    }
    TRY(Execute("CREATE TABLE IF NOT EXISTS records (kind TEXT NOT NULL, id TEXT NOT NULL, json TEXT NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID"));
    return Execute(fmt::format("PRAGMA user_version={}", kSchemaVersion));
  }

  Result<> Put(const char* kind, const std::string& id, const Json& record) override {
    std::lock_guard lock(mutex_);
    TRY(Insert(kind, id, DumpJson(record)));
    reserve_.Fill();
    return {};
  }

  Result<> PutAll(const std::vector<Row>& rows) override {
    std::lock_guard lock(mutex_);
    TRY(Execute("BEGIN IMMEDIATE"));
    ScopeExit undo([this] { sqlite3_exec(db_.get(), "ROLLBACK", nullptr, nullptr, nullptr); });
    for (const Row& row : rows) TRY(Insert(row.kind, row.id, row.json));
    TRY(Execute("COMMIT"));
    undo.Dismiss();
    return {};
  }

  Result<> Delete(const char* kind, const std::string& id) override {
    std::lock_guard lock(mutex_);
    auto deleted = DeleteOnce(kind, id);
    if (!deleted && deleted.error().code == Code::kResourceExhausted) {
      reserve_.Spend();
      // What is in the log goes to its place, and the log's file is written from its beginning again.
      sqlite3_wal_checkpoint_v2(db_.get(), nullptr, SQLITE_CHECKPOINT_RESTART, nullptr, nullptr);
      deleted = DeleteOnce(kind, id);
    }
    reserve_.Fill();
    return deleted;
  }

  Result<> DeleteOnce(const char* kind, const std::string& id) {
    auto statement = TRY(Prepare("DELETE FROM records WHERE kind = ? AND id = ?"));
    Bind(statement.get(), 1, kind);
    Bind(statement.get(), 2, id);
    if (sqlite3_step(statement.get()) != SQLITE_DONE) return Failed("delete from");
    return {};
  }

  Result<> ForEach(const char* kind, const std::function<Result<>(const std::string&, const Json&)>& visit) override {
    std::lock_guard lock(mutex_);
    auto statement = TRY(Prepare("SELECT id, json FROM records WHERE kind = ? ORDER BY id"));
    Bind(statement.get(), 1, kind);
    int status;
    while ((status = sqlite3_step(statement.get())) == SQLITE_ROW) {
      auto text = [&](int column) {
        return std::string(reinterpret_cast<const char*>(sqlite3_column_text(statement.get(), column)), static_cast<size_t>(sqlite3_column_bytes(statement.get(), column)));
      };
      std::string id = text(0);
      auto record = ParseJson(text(1), 4 * limits::kJsonBytes);
      if (!record) return std::move(record.error()).Within(fmt::format("image index '{}', {} '{}'", path_, kind, id));
      TRY(visit(id, *record));
    }
    if (status != SQLITE_DONE) return Failed("read");
    return {};
  }

 private:
  Error Failed(const char* verb) {
    int code = db_ ? sqlite3_extended_errcode(db_.get()) & 0xff : SQLITE_NOMEM;
    bool full = code == SQLITE_FULL || (db_ && sqlite3_system_errno(db_.get()) == ENOSPC);
    Code as = full ? Code::kResourceExhausted : code == SQLITE_CORRUPT || code == SQLITE_NOTADB ? Code::kDataLoss : Code::kInternal;
    return MakeError(as, "{} image index '{}': {}", verb, path_, db_ ? sqlite3_errmsg(db_.get()) : "out of memory");
  }
  Result<> Execute(const std::string& sql) {
    if (sqlite3_exec(db_.get(), sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) return Failed("change");
    return {};
  }
  Result<> Insert(const char* kind, const std::string& id, const std::string& json) {
    auto statement = TRY(Prepare("INSERT OR REPLACE INTO records VALUES (?, ?, ?)"));
    Bind(statement.get(), 1, kind);
    Bind(statement.get(), 2, id);
    Bind(statement.get(), 3, json);
    if (sqlite3_step(statement.get()) != SQLITE_DONE) return Failed("write to");
    return {};
  }
  Result<Statement> Prepare(const char* sql) {
    sqlite3_stmt* raw = nullptr;
    if (sqlite3_prepare_v2(db_.get(), sql, -1, &raw, nullptr) != SQLITE_OK) return Failed("use");
    return Statement(raw);
  }
  Result<int> UserVersion() {
    auto statement = TRY(Prepare("PRAGMA user_version"));
    if (sqlite3_step(statement.get()) != SQLITE_ROW) return Failed("read");
    return sqlite3_column_int(statement.get(), 0);
  }
  static void Bind(sqlite3_stmt* statement, int at, const std::string& text) {
    sqlite3_bind_text(statement, at, text.data(), static_cast<int>(text.size()), SQLITE_TRANSIENT);
  }

  const std::string path_;
  std::mutex mutex_;
  std::unique_ptr<sqlite3, CloseDb> db_;
  sys::DiskReserve reserve_;
};

}  // namespace

Result<std::unique_ptr<Metadata>> Metadata::Open(const std::string& path) {
  auto metadata = std::make_unique<SqliteMetadata>(path);
  TRY(metadata->Open());
  return std::unique_ptr<Metadata>(std::move(metadata));
}

}  // namespace caisson::image
