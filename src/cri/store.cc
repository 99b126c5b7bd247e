// SPDX-License-Identifier: Apache-2.0
#include "cri/store.h"

#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "sys/disk_reserve.h"

namespace caisson::cri {
namespace {

// "CSSN": marks the file as ours (PRAGMA application_id).
constexpr int kApplicationId = 0x4353534e;
constexpr int kCheckpointSeconds = 30;
constexpr size_t kReserveBytes = 512 << 10;

struct CloseDb {
  void operator()(sqlite3* db) const { sqlite3_close_v2(db); }
};
using Db = std::unique_ptr<sqlite3, CloseDb>;
struct FinalizeStatement {
  void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using Statement = std::unique_ptr<sqlite3_stmt, FinalizeStatement>;

Error SqliteError(sqlite3* db, const std::string& what) {
  int code = db ? sqlite3_errcode(db) : SQLITE_NOMEM;
  bool full = code == SQLITE_FULL || (db && sqlite3_system_errno(db) == ENOSPC);
  Code as = full                   ? Code::kResourceExhausted
            : code == SQLITE_NOTADB || code == SQLITE_CORRUPT ? Code::kDataLoss
            : code == SQLITE_BUSY  ? Code::kUnavailable
                                   : Code::kInternal;
  return MakeError(as, "{}: {}", what, db ? sqlite3_errmsg(db) : "out of memory");
}

Result<Db> OpenDb(const std::string& path) {
  sqlite3* raw = nullptr;
  // One connection per thread of ours, each under a mutex of its own: SQLite needs no locks inside.
  int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  int rc = sqlite3_open_v2(path.c_str(), &raw, flags, nullptr);
  Db db(raw);
  if (rc != SQLITE_OK) return SqliteError(raw, fmt::format("open the index '{}'", path));
  sqlite3_busy_timeout(raw, 5000);
  return db;
}

Result<> Run(sqlite3* db, const std::string& sql) {
  if (sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) return SqliteError(db, "the index");
  return {};
}

Result<Statement> Prepare(sqlite3* db, const std::string& sql) {
  sqlite3_stmt* raw = nullptr;
  if (sqlite3_prepare_v3(db, sql.c_str(), -1, SQLITE_PREPARE_PERSISTENT, &raw, nullptr) != SQLITE_OK) {
    return SqliteError(db, "the index");
  }
  return Statement(raw);
}

Result<int> GetInt(sqlite3* db, const std::string& sql) {
  Statement statement = TRY(Prepare(db, sql));
  if (sqlite3_step(statement.get()) != SQLITE_ROW) return SqliteError(db, "the index");
  return sqlite3_column_int(statement.get(), 0);
}

std::string Column(sqlite3_stmt* statement, int column) {
  const void* bytes = sqlite3_column_blob(statement, column);
  return bytes ? std::string(static_cast<const char*>(bytes), sqlite3_column_bytes(statement, column)) : std::string();
}

// An empty index under another name first: a half-made file must not be taken for a damaged index later.
Result<> CreateEmpty(const std::string& path) {
  std::string draft = path + ".new";
  unlink(draft.c_str());
  Db db = TRY(OpenDb(draft));
  TRY(Run(db.get(), fmt::format("PRAGMA application_id={}; PRAGMA user_version={};"
                                "CREATE TABLE pods (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;"
                                "CREATE TABLE containers (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;"
                                "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;",
                                kApplicationId, Store::kSchemaVersion)));
  db.reset();
  chmod(draft.c_str(), 0600);
  // Left by an index that somebody moved away: they would be applied to this one.
  for (const char* suffix : {"-wal", "-shm"}) unlink((path + suffix).c_str());
  if (rename(draft.c_str(), path.c_str()) != 0) return ErrnoError("rename '{}' to '{}'", draft, path);
  return {};
}

std::string ReservePath(const std::string& path) { return path + ".reserve"; }

const char* TableName(Store::Table table) { return table == Store::Table::kPods ? "pods" : "containers"; }

class SqliteStore : public Store {
 public:
  SqliteStore(const std::string& path, Db db)
      : path_(path), db_(std::move(db)), reserve_(ReservePath(path), kReserveBytes) {}

  ~SqliteStore() override {
    {
      std::lock_guard lock(checkpoint_mutex_);
      stopping_ = true;
    }
    checkpoint_wake_.notify_all();
    if (checkpointer_.joinable()) checkpointer_.join();
    put_[0].reset(), put_[1].reset(), delete_[0].reset(), delete_[1].reset();
  }

  Result<> Init() {
    TRY(CheckOurs());
    // No checkpoint inside a commit: that would be an fsync on the way of an RPC.
    TRY(Run(db_.get(), "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0;"
                       "PRAGMA cache_size=-256; PRAGMA temp_store=MEMORY;"));
    for (Table table : {Table::kPods, Table::kContainers}) {
      int i = static_cast<int>(table);
      put_[i] = TRY(Prepare(db_.get(), fmt::format("INSERT OR REPLACE INTO {} VALUES (?, ?)", TableName(table))));
      delete_[i] = TRY(Prepare(db_.get(), fmt::format("DELETE FROM {} WHERE id = ?", TableName(table))));
    }
    reserve_.Fill();
    checkpointer_ = std::thread([this] { CheckpointLoop(); });
    return {};
  }

  Result<> Put(Table table, const std::string& id, const std::string& bytes, Room room) override {
    std::lock_guard lock(mutex_);
    sqlite3_stmt* statement = put_[static_cast<int>(table)].get();
    sqlite3_bind_text(statement, 1, id.data(), static_cast<int>(id.size()), SQLITE_STATIC);
    sqlite3_bind_blob(statement, 2, bytes.data(), static_cast<int>(bytes.size()), SQLITE_STATIC);
    return Step(statement, "write to", room);
  }

  Result<> Delete(Table table, const std::string& id) override {
    std::lock_guard lock(mutex_);
    sqlite3_stmt* statement = delete_[static_cast<int>(table)].get();
    sqlite3_bind_text(statement, 1, id.data(), static_cast<int>(id.size()), SQLITE_STATIC);
    return Step(statement, "delete from", Room::kReserve);
  }

  Result<std::vector<std::pair<std::string, std::string>>> Load(Table table) override {
    std::lock_guard lock(mutex_);
    Statement statement = TRY(Prepare(db_.get(), fmt::format("SELECT id, record FROM {}", TableName(table))));
    std::vector<std::pair<std::string, std::string>> rows;
    int rc;
    while ((rc = sqlite3_step(statement.get())) == SQLITE_ROW) {
      rows.emplace_back(Column(statement.get(), 0), Column(statement.get(), 1));
    }
    if (rc != SQLITE_DONE) return SqliteError(db_.get(), fmt::format("read the index '{}'", path_));
    return rows;
  }

  Result<std::string> GetValue(const std::string& key) override {
    std::lock_guard lock(mutex_);
    Statement statement = TRY(Prepare(db_.get(), "SELECT value FROM meta WHERE key = ?"));
    sqlite3_bind_text(statement.get(), 1, key.data(), static_cast<int>(key.size()), SQLITE_STATIC);
    int rc = sqlite3_step(statement.get());
    if (rc == SQLITE_ROW) return Column(statement.get(), 0);
    if (rc != SQLITE_DONE) return SqliteError(db_.get(), fmt::format("read the index '{}'", path_));
    return std::string();
  }

  Result<> PutValue(const std::string& key, const std::string& value) override {
    std::lock_guard lock(mutex_);
    Statement statement = TRY(Prepare(db_.get(), "INSERT OR REPLACE INTO meta VALUES (?, ?)"));
    sqlite3_bind_text(statement.get(), 1, key.data(), static_cast<int>(key.size()), SQLITE_STATIC);
    sqlite3_bind_blob(statement.get(), 2, value.data(), static_cast<int>(value.size()), SQLITE_STATIC);
    return Step(statement.get(), "write to", Room::kFree);
  }

 private:
  Result<> CheckOurs() {
    auto version = GetInt(db_.get(), "PRAGMA user_version");
    if (!version) {
      if (version.error().code == Code::kResourceExhausted) {
        return std::move(version.error()).Within(fmt::format("open the index '{}'", path_));
      }
      return MakeError(Code::kDataLoss,
                       "the index '{}' is damaged or not an index of caissond ({}); restore it, or move it away to start "
                       "with an empty one: its pods are then unknown",
                       path_, version.error().message);
    }
    if (TRY(GetInt(db_.get(), "PRAGMA application_id")) != kApplicationId) {
      return MakeError(Code::kDataLoss, "'{}' is an SQLite file but not an index of caissond", path_);
    }
    if (*version > kSchemaVersion) {
      return MakeError(Code::kFailedPrecondition,
                       "the index '{}' was written by a newer caissond (schema {}, this one knows {}); install that "
                       "version again",
                       path_, *version, kSchemaVersion);
    }
    if (*version < kSchemaVersion) {
      return MakeError(Code::kDataLoss, "the index '{}' has schema {}, which never was", path_, *version);
    }
    Statement check = TRY(Prepare(db_.get(), "PRAGMA quick_check(1)"));
    if (sqlite3_step(check.get()) != SQLITE_ROW || Column(check.get(), 0) != "ok") {
      return MakeError(Code::kDataLoss, "the index '{}' is damaged: {}", path_,
                       sqlite3_errcode(db_.get()) == SQLITE_ROW ? Column(check.get(), 0) : sqlite3_errmsg(db_.get()));
    }
    return {};
  }

  Result<> Step(sqlite3_stmt* statement, const char* verb, Room room) {
    auto once = [&]() -> Result<> {
      Result<> result;
      if (sqlite3_step(statement) != SQLITE_DONE) {
        result = SqliteError(db_.get(), fmt::format("{} the index '{}'", verb, path_));
      }
      sqlite3_reset(statement);
      return result;
    };
    Result<> result = once();
    if (!result && result.error().code == Code::kResourceExhausted && room == Room::kReserve) {
      reserve_.Spend();
      // What is in the log goes to its place, and the log's file is written from its beginning again.
      sqlite3_wal_checkpoint_v2(db_.get(), nullptr, SQLITE_CHECKPOINT_RESTART, nullptr, nullptr);
      result = once();
      reserve_.Fill();
    } else if (result) {
      reserve_.Fill();
    }
    sqlite3_clear_bindings(statement);
    if (result && !dirty_.exchange(true)) checkpoint_wake_.notify_one();
    return result;
  }

  // A passive checkpoint through a connection of its own: writers do not wait for its fsync.
  void CheckpointLoop() {
    std::unique_lock lock(checkpoint_mutex_);
    while (!stopping_) {
      // Asleep for good while nothing changes.
      checkpoint_wake_.wait(lock, [this] { return stopping_ || dirty_.load(); });
      checkpoint_wake_.wait_for(lock, std::chrono::seconds(kCheckpointSeconds), [this] { return stopping_; });
      if (!dirty_.exchange(false)) continue;
      lock.unlock();
      if (auto db = OpenDb(path_)) sqlite3_wal_checkpoint_v2(db->get(), nullptr, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
      lock.lock();
    }
  }

  const std::string path_;
  std::mutex mutex_;  // of db_ and its statements
  Db db_;
  sys::DiskReserve reserve_;
  Statement put_[2], delete_[2];
  std::atomic<bool> dirty_ = false;
  std::mutex checkpoint_mutex_;
  std::condition_variable checkpoint_wake_;
  bool stopping_ = false;
  std::thread checkpointer_;
};

}  // namespace

Result<std::unique_ptr<Store>> Store::Open(const std::string& path) {
  struct stat st = {};
  bool fresh = stat(path.c_str(), &st) != 0;
  if (fresh && errno != ENOENT) return ErrnoError("the index '{}'", path);
  if (!fresh && st.st_size == 0) {
    // SQLite would take it for a new database and every pod would be forgotten.
    return MakeError(Code::kDataLoss,
                     "the index '{}' is an empty file, so what it knew is lost; remove it to start with an empty index",
                     path);
  }
  if (fresh) TRY(CreateEmpty(path));
  auto attempt = [&]() -> Result<std::unique_ptr<Store>> {
    auto store = std::make_unique<SqliteStore>(path, TRY(OpenDb(path)));
    TRY(store->Init());
    return std::unique_ptr<Store>(std::move(store));
  };
  auto store = attempt();
  // SQLite makes files of its own to open one: on a full disk there is room only for the reserve.
  if (!store && store.error().code == Code::kResourceExhausted && sys::DiskReserve(ReservePath(path), 0).Spend()) store = attempt();
  return store;
}

}  // namespace caisson::cri
