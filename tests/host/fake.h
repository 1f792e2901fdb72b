/* What the files of the fake libtritonserver share: its objects, its one state, and how each function begins.
 *
 * One lock guards everything. Objects that have ended keep their memory until
 * fake_reset, which is how their use is noticed.
 */
#ifndef FAKE_H
#define FAKE_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Seen from outside: the API, and the functions of the test's side. */
#pragma GCC visibility push(default)
#include "triton_abi.h"
#pragma GCC visibility pop

/* ---- objects ---- */

enum kind {
  KIND_ERROR,
  KIND_MESSAGE,
  KIND_REQUEST,
  KIND_FACTORY,
  KIND_RESPONSE,
  KIND_MODEL,
  KIND_INSTANCE,
  KIND_BACKEND,
  KIND_ATTRIBUTES,
  KIND_LABEL,
  KIND_METRIC,
  KIND_SERIES,
  N_KINDS
};

extern const char *const KIND_NAMES[N_KINDS];

enum { ALIVE = 0x41, DEAD = 0x44, MAX_ITEMS = 16, MAX_RESPONSES = 8192, MAX_FAULTS = 8, MAX_TEXT = 256 };

/* Comes first in every object. */
typedef struct object {
  enum kind kind;
  int state;
  struct object *next;
} object;

struct TRITONSERVER_Error {
  object head;
  TRITONSERVER_Error_Code code;
  char *text;
};

struct TRITONSERVER_Message {
  object head;
  char *text;
};

struct TRITONSERVER_BufferAttributes {
  object head;
  TRITONSERVER_MemoryType memory;
  int64_t id;
  size_t n_bytes;
};

struct TRITONBACKEND_Backend {
  object head;
  void *state;
};

struct TRITONBACKEND_Model {
  object head;
  TRITONBACKEND_Backend *backend;
  char *name;
  char *location;
  char *config;
  bool auto_complete;
  bool ready;
  bool config_was_set;
  char memory[MAX_TEXT]; /* as it was reported last: type, id and bytes of each */
  void *state;
};

struct TRITONBACKEND_ModelInstance {
  object head;
  TRITONBACKEND_Model *model;
  TRITONSERVER_InstanceGroupKind instance_kind;
  int32_t device_id;
  bool is_passive;
  void *state;
};

struct TRITONBACKEND_Input {
  char *name;
  TRITONSERVER_DataType datatype;
  TRITONSERVER_MemoryType memory;
  int64_t shape[2];
  char *bytes;
  uint64_t n_bytes;
  uint64_t bytes_a_buffer;
};

typedef struct {
  char *key;
  TRITONSERVER_ParameterType kind;
  bool has_value;
  union {
    char *text;
    int64_t integer;
    bool boolean;
    double number;
  } value;
} parameter;

struct TRITONBACKEND_Output {
  char *bytes;
  uint64_t n_bytes;
};

typedef struct {
  char *text; /* the output's one element; null without an output */
  uint64_t n_bytes;
  uint32_t n_dims;
  uint32_t flags;
  int error; /* -1 without */
  char *message;
} sent;

/* A request, and what became of it. */
struct TRITONBACKEND_Request {
  object head;
  char *id;
  bool cancelled;
  struct TRITONBACKEND_Input inputs[MAX_ITEMS];
  uint32_t n_inputs;
  parameter parameters[MAX_ITEMS];
  uint32_t n_parameters;
  sent responses[MAX_RESPONSES];
  uint32_t n_responses;
  uint32_t n_finals;
  int n_factories;
  /* In order: c response, F final, S statistics, s statistics of a failure, R release, D factory's end. */
  char events[MAX_RESPONSES + 64];
  uint32_t n_events;
};

struct TRITONBACKEND_ResponseFactory {
  object head;
  TRITONBACKEND_Request *request;
};

struct TRITONBACKEND_Response {
  object head;
  TRITONBACKEND_Request *request;
  struct TRITONBACKEND_Output output;
  bool has_output;
  uint32_t n_dims;
};

struct TRITONSERVER_Server {
  int nothing;
};

struct TRITONSERVER_Parameter {
  object head;
  char *name;
  char *value;
};

typedef struct {
  object head;
  char *key; /* name{labels} */
  double value;
} series;

/* As the real ones, families stay until the process ends. */
struct TRITONSERVER_MetricFamily {
  char *name;
};

struct TRITONSERVER_Metric {
  object head;
  TRITONSERVER_MetricFamily *family;
  series *series;
};

/* ---- the one state, in fake.c ---- */

extern pthread_mutex_t lock;
extern pthread_cond_t changed;
extern object *objects;
extern int n_live[N_KINDS];
extern uint64_t n_misuses;
extern char first_misuse[256];
extern struct TRITONSERVER_Server server;
extern struct planned_fault {
  const char *function;
  int nth; /* the call that fails, counted down to it */
  bool once;
} faults[MAX_FAULTS];
extern bool gpu_outputs;
extern uint64_t n_batch_reports;
extern bool verbose;

/* ---- under the lock ---- */

void misuse(const char *format, ...);
void *allocate(size_t size);
char *copy(const char *bytes, size_t size);
void *begin(enum kind kind, size_t size);
bool is_live(const char *function, const void *pointer, enum kind kind);
void end(const char *function, void *pointer, enum kind kind);
TRITONSERVER_Error *new_error(TRITONSERVER_Error_Code code, const char *text);
TRITONSERVER_Error *fault(const char *function);
void note(TRITONBACKEND_Request *request, char event);

/* Opens a function of the API: takes the lock, and leaves where a fault is due or an object is not live. */
#define ENTER(function, object, kind)                                              \
  pthread_mutex_lock(&lock);                                                       \
  do {                                                                             \
    TRITONSERVER_Error *due = fault(#function);                                    \
    if (due == NULL && !is_live(#function, object, kind))                          \
      due = new_error(TRITONSERVER_ERROR_INTERNAL, "misused, see fake_misuse");    \
    if (due != NULL) {                                                             \
      pthread_mutex_unlock(&lock);                                                 \
      return due;                                                                  \
    }                                                                              \
  } while (0)

#define LEAVE                    \
  do {                           \
    pthread_mutex_unlock(&lock); \
    return NULL;                 \
  } while (0)

#endif
