/* A stand-in for libtritonserver: every function of include/triton_abi.h over
 * plain bookkeeping, with faults on demand.
 *
 * tests/fake_host.rs compiles it to libtritonserver-fake.so, opens it
 * RTLD_LOCAL as in-process hosts do, and drives it through the fake_*
 * functions. It keeps the rules that Triton only documents: an object that is
 * used after its end, ended twice, or of the wrong kind is a misuse, counted
 * and never followed. So is a second FINAL, a response after FINAL, and
 * statistics that are zero, run backwards or come after the release.
 *
 * One lock guards everything. Objects that have ended keep their memory until
 * fake_reset, which is how their use is noticed.
 */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "triton_abi.h"

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
  N_KINDS
};

static const char *const KIND_NAMES[N_KINDS] = {"error",    "message", "request",  "factory",
                                                "response", "model",   "instance", "backend",
                                                "attributes"};

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

/* ---- the one state ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static object *objects;
static int n_live[N_KINDS];
static uint64_t n_misuses;
static char first_misuse[256];
static struct TRITONSERVER_Server server;
static struct {
  const char *function;
  int nth; /* the call that fails, counted down to it */
  bool once;
} faults[MAX_FAULTS];
static bool gpu_outputs;
static uint64_t n_batch_reports;
static bool verbose;

static void misuse(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  if (n_misuses == 0) vsnprintf(first_misuse, sizeof first_misuse, format, arguments);
  va_end(arguments);
  n_misuses++;
}

static void *allocate(size_t size) {
  void *memory = calloc(1, size == 0 ? 1 : size);
  if (memory == NULL) abort();
  return memory;
}

static char *copy(const char *bytes, size_t size) {
  char *text = allocate(size + 1);
  if (size > 0) memcpy(text, bytes, size);
  return text;
}

static void *begin(enum kind kind, size_t size) {
  object *head = allocate(size);
  head->kind = kind;
  head->state = ALIVE;
  head->next = objects;
  objects = head;
  n_live[kind]++;
  return head;
}

static bool is_live(const char *function, const void *pointer, enum kind kind) {
  const object *head = pointer;
  if (head == NULL) {
    misuse("%s: no %s", function, KIND_NAMES[kind]);
  } else if (head->kind != kind) {
    misuse("%s: a %s instead of a %s", function, KIND_NAMES[head->kind], KIND_NAMES[kind]);
  } else if (head->state != ALIVE) {
    misuse("%s: a %s after its end", function, KIND_NAMES[kind]);
  } else {
    return true;
  }
  return false;
}

static void end(const char *function, void *pointer, enum kind kind) {
  if (is_live(function, pointer, kind)) {
    ((object *)pointer)->state = DEAD;
    n_live[kind]--;
  }
}

static TRITONSERVER_Error *new_error(TRITONSERVER_Error_Code code, const char *text) {
  TRITONSERVER_Error *error = begin(KIND_ERROR, sizeof *error);
  error->code = code;
  error->text = copy(text, strlen(text));
  return error;
}

static TRITONSERVER_Error *fault(const char *function) {
  for (int index = 0; index < MAX_FAULTS; index++) {
    if (faults[index].function == NULL || strcmp(faults[index].function, function) != 0) continue;
    if (faults[index].nth > 1) {
      faults[index].nth--;
      continue;
    }
    if (faults[index].once) faults[index].function = NULL;
    return new_error(TRITONSERVER_ERROR_INTERNAL, "a fault that the test asked for");
  }
  return NULL;
}

static void note(TRITONBACKEND_Request *request, char event) {
  if (request->n_events + 1 < sizeof request->events) request->events[request->n_events++] = event;
  pthread_cond_broadcast(&changed);
}

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

/* ---- errors, messages, log ---- */

TRITONSERVER_Error *TRITONSERVER_ErrorNew(TRITONSERVER_Error_Code code, const char *msg) {
  pthread_mutex_lock(&lock);
  TRITONSERVER_Error *error = new_error(code, msg);
  pthread_mutex_unlock(&lock);
  return error;
}

void TRITONSERVER_ErrorDelete(TRITONSERVER_Error *error) {
  pthread_mutex_lock(&lock);
  end("TRITONSERVER_ErrorDelete", error, KIND_ERROR);
  pthread_mutex_unlock(&lock);
}

TRITONSERVER_Error_Code TRITONSERVER_ErrorCode(TRITONSERVER_Error *error) {
  pthread_mutex_lock(&lock);
  TRITONSERVER_Error_Code code =
      is_live("TRITONSERVER_ErrorCode", error, KIND_ERROR) ? error->code : TRITONSERVER_ERROR_UNKNOWN;
  pthread_mutex_unlock(&lock);
  return code;
}

const char *TRITONSERVER_ErrorMessage(TRITONSERVER_Error *error) {
  pthread_mutex_lock(&lock);
  const char *text = is_live("TRITONSERVER_ErrorMessage", error, KIND_ERROR) ? error->text : NULL;
  pthread_mutex_unlock(&lock);
  return text;
}

TRITONSERVER_Error *TRITONSERVER_MessageNewFromSerializedJson(TRITONSERVER_Message **message,
                                                              const char *base, size_t byte_size) {
  pthread_mutex_lock(&lock);
  TRITONSERVER_Error *due = fault("TRITONSERVER_MessageNewFromSerializedJson");
  if (due == NULL) {
    *message = begin(KIND_MESSAGE, sizeof **message);
    (*message)->text = copy(base, byte_size);
  }
  pthread_mutex_unlock(&lock);
  return due;
}

TRITONSERVER_Error *TRITONSERVER_MessageSerializeToJson(TRITONSERVER_Message *message,
                                                        const char **base, size_t *byte_size) {
  ENTER(TRITONSERVER_MessageSerializeToJson, message, KIND_MESSAGE);
  *base = message->text;
  *byte_size = strlen(message->text);
  LEAVE;
}

TRITONSERVER_Error *TRITONSERVER_MessageDelete(TRITONSERVER_Message *message) {
  pthread_mutex_lock(&lock);
  end("TRITONSERVER_MessageDelete", message, KIND_MESSAGE);
  pthread_mutex_unlock(&lock);
  return NULL;
}

bool TRITONSERVER_LogIsEnabled(TRITONSERVER_LogLevel level) {
  return verbose || level == TRITONSERVER_LOG_ERROR || level == TRITONSERVER_LOG_WARN;
}

TRITONSERVER_Error *TRITONSERVER_LogMessage(TRITONSERVER_LogLevel level, const char *filename,
                                            const int line, const char *msg) {
  if (verbose) fprintf(stderr, "%c %s:%d] %s\n", "IWEV"[level & 3], filename, line, msg);
  return NULL;
}

static TRITONBACKEND_Model *find_model(const char *name) {
  for (object *head = objects; head != NULL; head = head->next) {
    TRITONBACKEND_Model *model = (TRITONBACKEND_Model *)head;
    if (head->kind == KIND_MODEL && head->state == ALIVE && strcmp(model->name, name) == 0) return model;
  }
  return NULL;
}

TRITONSERVER_Error *TRITONSERVER_ServerModelIsReady(TRITONSERVER_Server *asked, const char *model_name,
                                                    const int64_t model_version, bool *ready) {
  pthread_mutex_lock(&lock);
  TRITONSERVER_Error *due = fault("TRITONSERVER_ServerModelIsReady");
  if (asked != &server || model_version != 1) misuse("TRITONSERVER_ServerModelIsReady: of another model");
  if (due == NULL) {
    TRITONBACKEND_Model *model = find_model(model_name);
    *ready = model != NULL && model->ready;
  }
  pthread_mutex_unlock(&lock);
  return due;
}

/* ---- memory ---- */

TRITONSERVER_Error *TRITONSERVER_BufferAttributesNew(TRITONSERVER_BufferAttributes **attributes) {
  pthread_mutex_lock(&lock);
  TRITONSERVER_Error *due = fault("TRITONSERVER_BufferAttributesNew");
  if (due == NULL) *attributes = begin(KIND_ATTRIBUTES, sizeof **attributes);
  pthread_mutex_unlock(&lock);
  return due;
}

TRITONSERVER_Error *TRITONSERVER_BufferAttributesDelete(TRITONSERVER_BufferAttributes *attributes) {
  pthread_mutex_lock(&lock);
  end("TRITONSERVER_BufferAttributesDelete", attributes, KIND_ATTRIBUTES);
  pthread_mutex_unlock(&lock);
  return NULL;
}

TRITONSERVER_Error *TRITONSERVER_BufferAttributesSetMemoryType(TRITONSERVER_BufferAttributes *attributes,
                                                               TRITONSERVER_MemoryType memory_type) {
  ENTER(TRITONSERVER_BufferAttributesSetMemoryType, attributes, KIND_ATTRIBUTES);
  attributes->memory = memory_type;
  LEAVE;
}

TRITONSERVER_Error *TRITONSERVER_BufferAttributesSetMemoryTypeId(TRITONSERVER_BufferAttributes *attributes,
                                                                 int64_t memory_type_id) {
  ENTER(TRITONSERVER_BufferAttributesSetMemoryTypeId, attributes, KIND_ATTRIBUTES);
  attributes->id = memory_type_id;
  LEAVE;
}

TRITONSERVER_Error *TRITONSERVER_BufferAttributesSetByteSize(TRITONSERVER_BufferAttributes *attributes,
                                                             size_t byte_size) {
  ENTER(TRITONSERVER_BufferAttributesSetByteSize, attributes, KIND_ATTRIBUTES);
  attributes->n_bytes = byte_size;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelReportMemoryUsage(TRITONBACKEND_Model *model,
                                                         TRITONSERVER_BufferAttributes **usage,
                                                         uint32_t usage_size) {
  ENTER(TRITONBACKEND_ModelReportMemoryUsage, model, KIND_MODEL);
  model->memory[0] = 0;
  for (uint32_t index = 0; index < usage_size; index++) {
    const TRITONSERVER_BufferAttributes *entry = usage[index];
    if (!is_live("TRITONBACKEND_ModelReportMemoryUsage", entry, KIND_ATTRIBUTES)) continue;
    size_t used = strlen(model->memory);
    snprintf(model->memory + used, sizeof model->memory - used, "%d %lld %zu;", (int)entry->memory,
             (long long)entry->id, entry->n_bytes);
  }
  LEAVE;
}

/* ---- backend ---- */

TRITONSERVER_Error *TRITONBACKEND_ApiVersion(uint32_t *major, uint32_t *minor) {
  *major = 1;
  *minor = 16;
  return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_BackendName(TRITONBACKEND_Backend *backend, const char **name) {
  ENTER(TRITONBACKEND_BackendName, backend, KIND_BACKEND);
  *name = "llm";
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_BackendState(TRITONBACKEND_Backend *backend, void **state) {
  ENTER(TRITONBACKEND_BackendState, backend, KIND_BACKEND);
  *state = backend->state;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_BackendSetState(TRITONBACKEND_Backend *backend, void *state) {
  ENTER(TRITONBACKEND_BackendSetState, backend, KIND_BACKEND);
  backend->state = state;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(
    TRITONBACKEND_BackendAttribute *attributes, const TRITONSERVER_InstanceGroupKind kind,
    const uint64_t count, const uint64_t *device_ids, const uint64_t id_count) {
  (void)device_ids;
  /* The test passes an int[2] as the attributes. */
  ((int *)attributes)[0] = (int)kind;
  ((int *)attributes)[1] = (int)(count + id_count);
  return NULL;
}

/* ---- model ---- */

TRITONSERVER_Error *TRITONBACKEND_ModelName(TRITONBACKEND_Model *model, const char **name) {
  ENTER(TRITONBACKEND_ModelName, model, KIND_MODEL);
  *name = model->name;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelVersion(TRITONBACKEND_Model *model, uint64_t *version) {
  ENTER(TRITONBACKEND_ModelVersion, model, KIND_MODEL);
  *version = 1;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelRepository(TRITONBACKEND_Model *model,
                                                  TRITONBACKEND_ArtifactType *artifact_type,
                                                  const char **location) {
  ENTER(TRITONBACKEND_ModelRepository, model, KIND_MODEL);
  *artifact_type = TRITONBACKEND_ARTIFACT_FILESYSTEM;
  *location = model->location;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelConfig(TRITONBACKEND_Model *model, const uint32_t config_version,
                                              TRITONSERVER_Message **model_config) {
  ENTER(TRITONBACKEND_ModelConfig, model, KIND_MODEL);
  if (config_version != 1) misuse("TRITONBACKEND_ModelConfig: version %u", config_version);
  *model_config = begin(KIND_MESSAGE, sizeof **model_config);
  (*model_config)->text = copy(model->config, strlen(model->config));
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelAutoCompleteConfig(TRITONBACKEND_Model *model,
                                                          bool *auto_complete_config) {
  ENTER(TRITONBACKEND_ModelAutoCompleteConfig, model, KIND_MODEL);
  *auto_complete_config = model->auto_complete;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelSetConfig(TRITONBACKEND_Model *model, const uint32_t config_version,
                                                 TRITONSERVER_Message *model_config) {
  ENTER(TRITONBACKEND_ModelSetConfig, model, KIND_MODEL);
  if (config_version != 1 || !model->auto_complete) misuse("TRITONBACKEND_ModelSetConfig: not allowed");
  if (is_live("TRITONBACKEND_ModelSetConfig", model_config, KIND_MESSAGE)) model->config_was_set = true;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelServer(TRITONBACKEND_Model *model, TRITONSERVER_Server **found) {
  ENTER(TRITONBACKEND_ModelServer, model, KIND_MODEL);
  *found = &server;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelBackend(TRITONBACKEND_Model *model, TRITONBACKEND_Backend **backend) {
  ENTER(TRITONBACKEND_ModelBackend, model, KIND_MODEL);
  *backend = model->backend;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelState(TRITONBACKEND_Model *model, void **state) {
  ENTER(TRITONBACKEND_ModelState, model, KIND_MODEL);
  *state = model->state;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelSetState(TRITONBACKEND_Model *model, void *state) {
  ENTER(TRITONBACKEND_ModelSetState, model, KIND_MODEL);
  model->state = state;
  LEAVE;
}

/* ---- instance ---- */

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceState(TRITONBACKEND_ModelInstance *instance,
                                                     void **state) {
  ENTER(TRITONBACKEND_ModelInstanceState, instance, KIND_INSTANCE);
  *state = instance->state;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceSetState(TRITONBACKEND_ModelInstance *instance,
                                                        void *state) {
  ENTER(TRITONBACKEND_ModelInstanceSetState, instance, KIND_INSTANCE);
  instance->state = state;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceDeviceId(TRITONBACKEND_ModelInstance *instance,
                                                        int32_t *device_id) {
  ENTER(TRITONBACKEND_ModelInstanceDeviceId, instance, KIND_INSTANCE);
  *device_id = instance->device_id;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceKind(TRITONBACKEND_ModelInstance *instance,
                                                    TRITONSERVER_InstanceGroupKind *kind) {
  ENTER(TRITONBACKEND_ModelInstanceKind, instance, KIND_INSTANCE);
  *kind = instance->instance_kind;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceIsPassive(TRITONBACKEND_ModelInstance *instance,
                                                         bool *is_passive) {
  ENTER(TRITONBACKEND_ModelInstanceIsPassive, instance, KIND_INSTANCE);
  *is_passive = instance->is_passive;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceModel(TRITONBACKEND_ModelInstance *instance,
                                                     TRITONBACKEND_Model **model) {
  ENTER(TRITONBACKEND_ModelInstanceModel, instance, KIND_INSTANCE);
  *model = instance->model;
  LEAVE;
}

static void check_times(const char *function, const uint64_t times[4]) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
  for (int index = 0; index < 4; index++) {
    if (times[index] == 0) misuse("%s: time %d is zero", function, index);
    if (index > 0 && times[index] < times[index - 1]) misuse("%s: time %d runs backwards", function, index);
    if (times[index] > now_ns) misuse("%s: time %d is not of the steady clock", function, index);
  }
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceReportStatistics(
    TRITONBACKEND_ModelInstance *instance, TRITONBACKEND_Request *request, const bool success,
    const uint64_t exec_start_ns, const uint64_t compute_start_ns, const uint64_t compute_end_ns,
    const uint64_t exec_end_ns) {
  ENTER(TRITONBACKEND_ModelInstanceReportStatistics, instance, KIND_INSTANCE);
  const uint64_t times[4] = {exec_start_ns, compute_start_ns, compute_end_ns, exec_end_ns};
  check_times("TRITONBACKEND_ModelInstanceReportStatistics", times);
  if (is_live("TRITONBACKEND_ModelInstanceReportStatistics", request, KIND_REQUEST))
    note(request, success ? 'S' : 's');
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceReportBatchStatistics(
    TRITONBACKEND_ModelInstance *instance, const uint64_t batch_size, const uint64_t exec_start_ns,
    const uint64_t compute_start_ns, const uint64_t compute_end_ns, const uint64_t exec_end_ns) {
  ENTER(TRITONBACKEND_ModelInstanceReportBatchStatistics, instance, KIND_INSTANCE);
  const uint64_t times[4] = {exec_start_ns, compute_start_ns, compute_end_ns, exec_end_ns};
  check_times("TRITONBACKEND_ModelInstanceReportBatchStatistics", times);
  n_batch_reports += batch_size;
  LEAVE;
}

/* ---- request ---- */

TRITONSERVER_Error *TRITONBACKEND_RequestId(TRITONBACKEND_Request *request, const char **id) {
  ENTER(TRITONBACKEND_RequestId, request, KIND_REQUEST);
  *id = request->id;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_RequestParameterCount(TRITONBACKEND_Request *request, uint32_t *count) {
  ENTER(TRITONBACKEND_RequestParameterCount, request, KIND_REQUEST);
  *count = request->n_parameters;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_RequestParameter(TRITONBACKEND_Request *request, const uint32_t index,
                                                   const char **key, TRITONSERVER_ParameterType *type,
                                                   const void **vvalue) {
  ENTER(TRITONBACKEND_RequestParameter, request, KIND_REQUEST);
  if (index >= request->n_parameters) {
    misuse("TRITONBACKEND_RequestParameter: index %u of %u", index, request->n_parameters);
    LEAVE;
  }
  parameter *given = &request->parameters[index];
  *key = given->key;
  *type = given->kind;
  *vvalue = &given->value;
  if (given->kind == TRITONSERVER_PARAMETER_STRING) *vvalue = given->value.text;
  if (!given->has_value) *vvalue = NULL;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_RequestInputCount(TRITONBACKEND_Request *request, uint32_t *count) {
  ENTER(TRITONBACKEND_RequestInputCount, request, KIND_REQUEST);
  *count = request->n_inputs;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_RequestInputByIndex(TRITONBACKEND_Request *request, const uint32_t index,
                                                      TRITONBACKEND_Input **input) {
  ENTER(TRITONBACKEND_RequestInputByIndex, request, KIND_REQUEST);
  if (index >= request->n_inputs) {
    misuse("TRITONBACKEND_RequestInputByIndex: index %u of %u", index, request->n_inputs);
    LEAVE;
  }
  *input = &request->inputs[index];
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_RequestRelease(TRITONBACKEND_Request *request, uint32_t release_flags) {
  pthread_mutex_lock(&lock);
  if (release_flags != TRITONSERVER_REQUEST_RELEASE_ALL) misuse("TRITONBACKEND_RequestRelease: flags %u", release_flags);
  if (is_live("TRITONBACKEND_RequestRelease", request, KIND_REQUEST)) {
    end("TRITONBACKEND_RequestRelease", request, KIND_REQUEST);
    note(request, 'R');
  }
  pthread_mutex_unlock(&lock);
  return NULL;
}

static uint32_t n_buffers(const TRITONBACKEND_Input *input) {
  return (uint32_t)((input->n_bytes + input->bytes_a_buffer - 1) / input->bytes_a_buffer);
}

TRITONSERVER_Error *TRITONBACKEND_InputProperties(TRITONBACKEND_Input *input, const char **name,
                                                  TRITONSERVER_DataType *datatype, const int64_t **shape,
                                                  uint32_t *dims_count, uint64_t *byte_size,
                                                  uint32_t *buffer_count) {
  pthread_mutex_lock(&lock);
  TRITONSERVER_Error *due = fault("TRITONBACKEND_InputProperties");
  if (due == NULL) {
    *name = input->name;
    *datatype = input->datatype;
    *shape = input->shape;
    *dims_count = 1;
    *byte_size = input->n_bytes;
    *buffer_count = n_buffers(input);
  }
  pthread_mutex_unlock(&lock);
  return due;
}

TRITONSERVER_Error *TRITONBACKEND_InputBuffer(TRITONBACKEND_Input *input, const uint32_t index,
                                              const void **buffer, uint64_t *buffer_byte_size,
                                              TRITONSERVER_MemoryType *memory_type,
                                              int64_t *memory_type_id) {
  pthread_mutex_lock(&lock);
  TRITONSERVER_Error *due = fault("TRITONBACKEND_InputBuffer");
  if (index >= n_buffers(input)) misuse("TRITONBACKEND_InputBuffer: index %u of %u", index, n_buffers(input));
  if (due == NULL) {
    uint64_t start = index * input->bytes_a_buffer;
    uint64_t left = input->n_bytes - start;
    *buffer_byte_size = left < input->bytes_a_buffer ? left : input->bytes_a_buffer;
    /* No CPU may follow a pointer into GPU memory. */
    *buffer = input->memory == TRITONSERVER_MEMORY_GPU ? (void *)0x10 : input->bytes + start;
    *memory_type = input->memory;
    *memory_type_id = 0;
  }
  pthread_mutex_unlock(&lock);
  return due;
}

/* ---- response ---- */

TRITONSERVER_Error *TRITONBACKEND_ResponseFactoryNew(TRITONBACKEND_ResponseFactory **factory,
                                                     TRITONBACKEND_Request *request) {
  ENTER(TRITONBACKEND_ResponseFactoryNew, request, KIND_REQUEST);
  *factory = begin(KIND_FACTORY, sizeof **factory);
  (*factory)->request = request;
  request->n_factories++;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ResponseFactoryDelete(TRITONBACKEND_ResponseFactory *factory) {
  pthread_mutex_lock(&lock);
  if (is_live("TRITONBACKEND_ResponseFactoryDelete", factory, KIND_FACTORY)) {
    end("TRITONBACKEND_ResponseFactoryDelete", factory, KIND_FACTORY);
    factory->request->n_factories--;
    note(factory->request, 'D');
  }
  pthread_mutex_unlock(&lock);
  return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ResponseFactoryIsCancelled(TRITONBACKEND_ResponseFactory *factory,
                                                             bool *is_cancelled) {
  ENTER(TRITONBACKEND_ResponseFactoryIsCancelled, factory, KIND_FACTORY);
  *is_cancelled = factory->request->cancelled;
  LEAVE;
}

static void take_flags(const char *function, TRITONBACKEND_Request *request, uint32_t flags) {
  if (request->n_finals > 0) misuse("%s: after FINAL", function);
  if ((flags & ~(uint32_t)TRITONSERVER_RESPONSE_COMPLETE_FINAL) != 0) misuse("%s: flags %u", function, flags);
  if ((flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL) != 0) {
    request->n_finals++;
    note(request, 'F');
  } else {
    note(request, 'c');
  }
}

TRITONSERVER_Error *TRITONBACKEND_ResponseFactorySendFlags(TRITONBACKEND_ResponseFactory *factory,
                                                           const uint32_t send_flags) {
  ENTER(TRITONBACKEND_ResponseFactorySendFlags, factory, KIND_FACTORY);
  take_flags("TRITONBACKEND_ResponseFactorySendFlags", factory->request, send_flags);
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ResponseNewFromFactory(TRITONBACKEND_Response **response,
                                                         TRITONBACKEND_ResponseFactory *factory) {
  ENTER(TRITONBACKEND_ResponseNewFromFactory, factory, KIND_FACTORY);
  *response = begin(KIND_RESPONSE, sizeof **response);
  (*response)->request = factory->request;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ResponseOutput(TRITONBACKEND_Response *response,
                                                 TRITONBACKEND_Output **output, const char *name,
                                                 const TRITONSERVER_DataType datatype, const int64_t *shape,
                                                 const uint32_t dims_count) {
  ENTER(TRITONBACKEND_ResponseOutput, response, KIND_RESPONSE);
  if (strcmp(name, "text_output") != 0 || datatype != TRITONSERVER_TYPE_BYTES)
    misuse("TRITONBACKEND_ResponseOutput: output '%s' of type %d", name, (int)datatype);
  for (uint32_t dim = 0; dim < dims_count; dim++)
    if (shape[dim] != 1) misuse("TRITONBACKEND_ResponseOutput: dimension %u is not 1", dim);
  response->has_output = true;
  response->n_dims = dims_count;
  *output = &response->output;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_OutputBuffer(TRITONBACKEND_Output *output, void **buffer,
                                               const uint64_t buffer_byte_size,
                                               TRITONSERVER_MemoryType *memory_type,
                                               int64_t *memory_type_id) {
  pthread_mutex_lock(&lock);
  TRITONSERVER_Error *due = fault("TRITONBACKEND_OutputBuffer");
  if (due == NULL) {
    output->bytes = allocate(buffer_byte_size);
    output->n_bytes = buffer_byte_size;
    *buffer = gpu_outputs ? (void *)0x10 : output->bytes;
    *memory_type = gpu_outputs ? TRITONSERVER_MEMORY_GPU : TRITONSERVER_MEMORY_CPU;
    *memory_type_id = 0;
  }
  pthread_mutex_unlock(&lock);
  return due;
}

/* As the real one, it takes the response over even where it reports an error. */
TRITONSERVER_Error *TRITONBACKEND_ResponseSend(TRITONBACKEND_Response *response, const uint32_t send_flags,
                                               TRITONSERVER_Error *error) {
  pthread_mutex_lock(&lock);
  TRITONSERVER_Error *due = fault("TRITONBACKEND_ResponseSend");
  if (is_live("TRITONBACKEND_ResponseSend", response, KIND_RESPONSE)) {
    end("TRITONBACKEND_ResponseSend", response, KIND_RESPONSE);
    TRITONBACKEND_Request *request = response->request;
    if (due == NULL && request->n_responses < MAX_RESPONSES) {
      sent *out = &request->responses[request->n_responses++];
      out->flags = send_flags;
      out->n_dims = response->n_dims;
      out->error = -1;
      if (error != NULL && is_live("TRITONBACKEND_ResponseSend", error, KIND_ERROR)) {
        out->error = (int)error->code;
        out->message = copy(error->text, strlen(error->text));
      }
      const struct TRITONBACKEND_Output *output = &response->output;
      if (response->has_output && error == NULL) {
        uint32_t length = 0;
        if (output->n_bytes >= 4) memcpy(&length, output->bytes, 4);
        if (output->n_bytes != length + (uint64_t)4)
          misuse("TRITONBACKEND_ResponseSend: %llu bytes are not one element",
                 (unsigned long long)output->n_bytes);
        else
          out->text = copy(output->bytes + 4, length);
        out->n_bytes = length;
      }
      take_flags("TRITONBACKEND_ResponseSend", request, send_flags);
    }
    free(response->output.bytes);
    response->output.bytes = NULL;
  }
  pthread_mutex_unlock(&lock);
  return due;
}

/* ---- the test's side ---- */

/* Makes the nth call of a function fail, and all later ones unless `once`. */
void fake_fail(const char *function, int nth, bool once) {
  pthread_mutex_lock(&lock);
  for (int index = 0; index < MAX_FAULTS; index++) {
    if (faults[index].function != NULL) continue;
    faults[index].function = copy(function, strlen(function));
    faults[index].nth = nth;
    faults[index].once = once;
    break;
  }
  pthread_mutex_unlock(&lock);
}

void fake_no_faults(void) {
  pthread_mutex_lock(&lock);
  memset(faults, 0, sizeof faults);
  gpu_outputs = false;
  pthread_mutex_unlock(&lock);
}

void fake_gpu_outputs(bool on) {
  pthread_mutex_lock(&lock);
  gpu_outputs = on;
  pthread_mutex_unlock(&lock);
}

void fake_verbose(bool on) { verbose = on; }

/* Objects of the kinds that the library must give back: errors, messages, requests, factories, responses. */
int fake_live(int kind) {
  pthread_mutex_lock(&lock);
  int n = kind >= 0 && kind < N_KINDS ? n_live[kind] : -1;
  pthread_mutex_unlock(&lock);
  return n;
}

const char *fake_misuse(void) { return n_misuses == 0 ? NULL : first_misuse; }

uint64_t fake_batch_reports(void) { return n_batch_reports; }

TRITONBACKEND_Backend *fake_backend(void) {
  pthread_mutex_lock(&lock);
  TRITONBACKEND_Backend *backend = begin(KIND_BACKEND, sizeof *backend);
  pthread_mutex_unlock(&lock);
  return backend;
}

TRITONBACKEND_Model *fake_model(TRITONBACKEND_Backend *backend, const char *name, const char *location,
                                const char *config, bool auto_complete) {
  pthread_mutex_lock(&lock);
  TRITONBACKEND_Model *model = begin(KIND_MODEL, sizeof *model);
  model->backend = backend;
  model->name = copy(name, strlen(name));
  model->location = copy(location, strlen(location));
  model->config = copy(config, strlen(config));
  model->auto_complete = auto_complete;
  pthread_mutex_unlock(&lock);
  return model;
}

void fake_model_ready(TRITONBACKEND_Model *model, bool ready) {
  pthread_mutex_lock(&lock);
  model->ready = ready;
  pthread_mutex_unlock(&lock);
}

const char *fake_model_memory(TRITONBACKEND_Model *model) { return model->memory; }

bool fake_model_was_set(TRITONBACKEND_Model *model) { return model->config_was_set; }

TRITONBACKEND_ModelInstance *fake_instance(TRITONBACKEND_Model *model, int kind, int device_id,
                                           bool is_passive) {
  pthread_mutex_lock(&lock);
  TRITONBACKEND_ModelInstance *instance = begin(KIND_INSTANCE, sizeof *instance);
  instance->model = model;
  instance->instance_kind = (TRITONSERVER_InstanceGroupKind)kind;
  instance->device_id = device_id;
  instance->is_passive = is_passive;
  pthread_mutex_unlock(&lock);
  return instance;
}

/* Ends a backend, a model or an instance after its Finalize. */
void fake_end(void *pointer) {
  pthread_mutex_lock(&lock);
  end("fake_end", pointer, ((object *)pointer)->kind);
  pthread_mutex_unlock(&lock);
}

TRITONBACKEND_Request *fake_request(const char *id) {
  pthread_mutex_lock(&lock);
  TRITONBACKEND_Request *request = begin(KIND_REQUEST, sizeof *request);
  request->id = copy(id, strlen(id));
  pthread_mutex_unlock(&lock);
  return request;
}

void fake_input(TRITONBACKEND_Request *request, const char *name, int datatype, int memory,
                uint64_t bytes_a_buffer, const char *bytes, uint64_t n_bytes) {
  TRITONBACKEND_Input *input = &request->inputs[request->n_inputs++];
  input->name = copy(name, strlen(name));
  input->datatype = (TRITONSERVER_DataType)datatype;
  input->memory = (TRITONSERVER_MemoryType)memory;
  input->shape[0] = 1;
  input->bytes = copy(bytes, n_bytes);
  input->n_bytes = n_bytes;
  input->bytes_a_buffer = bytes_a_buffer;
}

/* `value` is a C string, an int64_t, a bool or a double, as the kind says; null is no value. */
void fake_parameter(TRITONBACKEND_Request *request, const char *key, int kind, const void *value) {
  parameter *given = &request->parameters[request->n_parameters++];
  given->key = copy(key, strlen(key));
  given->kind = (TRITONSERVER_ParameterType)kind;
  given->has_value = value != NULL;
  if (value == NULL) return;
  switch (given->kind) {
    case TRITONSERVER_PARAMETER_STRING: given->value.text = copy(value, strlen(value)); break;
    case TRITONSERVER_PARAMETER_BOOL: given->value.boolean = *(const bool *)value; break;
    default: memcpy(&given->value, value, 8);
  }
}

void fake_cancel(TRITONBACKEND_Request *request) {
  pthread_mutex_lock(&lock);
  request->cancelled = true;
  pthread_mutex_unlock(&lock);
}

static bool has_ended(const TRITONBACKEND_Request *request) {
  return request->head.state == DEAD && request->n_factories == 0;
}

/* Waits until a request has `n` responses or, with n = 0, until nothing of it is left; false if time runs out. */
bool fake_wait(TRITONBACKEND_Request *request, uint32_t n, uint64_t timeout_ms) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += (time_t)(timeout_ms / 1000);
  until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
  if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
  bool done;
  pthread_mutex_lock(&lock);
  for (;;) {
    done = n > 0 ? request->n_responses >= n : has_ended(request);
    if (done || pthread_cond_timedwait(&changed, &lock, &until) != 0) break;
  }
  pthread_mutex_unlock(&lock);
  return done;
}

const char *fake_events(TRITONBACKEND_Request *request) { return request->events; }

uint32_t fake_n_responses(TRITONBACKEND_Request *request) {
  pthread_mutex_lock(&lock);
  uint32_t n = request->n_responses;
  pthread_mutex_unlock(&lock);
  return n;
}

/* Reads response `index` of a request that has ended; the error code is -1 without an error. */
void fake_response(TRITONBACKEND_Request *request, uint32_t index, const char **text, uint64_t *n_bytes,
                   uint32_t *n_dims, uint32_t *flags, int *error, const char **message) {
  const sent *out = &request->responses[index];
  *text = out->text;
  *n_bytes = out->n_bytes;
  *n_dims = out->n_dims;
  *flags = out->flags;
  *error = out->error;
  *message = out->message;
}

/* Forgets everything; the memory of ended objects is freed. */
void fake_reset(void) {
  pthread_mutex_lock(&lock);
  while (objects != NULL) {
    object *head = objects;
    objects = head->next;
    if (head->kind == KIND_ERROR) free(((TRITONSERVER_Error *)head)->text);
    if (head->kind == KIND_MESSAGE) free(((TRITONSERVER_Message *)head)->text);
    if (head->kind == KIND_RESPONSE) free(((TRITONBACKEND_Response *)head)->output.bytes);
    if (head->kind == KIND_REQUEST) {
      TRITONBACKEND_Request *request = (TRITONBACKEND_Request *)head;
      for (uint32_t index = 0; index < request->n_inputs; index++) {
        free(request->inputs[index].name);
        free(request->inputs[index].bytes);
      }
      for (uint32_t index = 0; index < request->n_parameters; index++) {
        free(request->parameters[index].key);
        if (request->parameters[index].kind == TRITONSERVER_PARAMETER_STRING)
          free(request->parameters[index].value.text);
      }
      for (uint32_t index = 0; index < request->n_responses; index++) {
        free(request->responses[index].text);
        free(request->responses[index].message);
      }
      free(request->id);
    }
    if (head->kind == KIND_MODEL) {
      TRITONBACKEND_Model *model = (TRITONBACKEND_Model *)head;
      free(model->name);
      free(model->location);
      free(model->config);
    }
    free(head);
  }
  memset(n_live, 0, sizeof n_live);
  memset(faults, 0, sizeof faults);
  gpu_outputs = false;
  n_misuses = 0;
  n_batch_reports = 0;
  pthread_mutex_unlock(&lock);
}
