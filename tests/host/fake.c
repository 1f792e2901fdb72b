/* The state of the fake libtritonserver, and the count of what is alive and what was misused. */
#include "fake.h"

#include <stdarg.h>

const char *const KIND_NAMES[N_KINDS] = {"error", "message",  "request",    "factory", "response", "model",
                                         "instance", "backend", "attributes", "label",   "metric",   "series"};

pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
object *objects;
int n_live[N_KINDS];
uint64_t n_misuses;
char first_misuse[256];
struct TRITONSERVER_Server server;
struct planned_fault faults[MAX_FAULTS];
bool gpu_outputs;
uint64_t n_batch_reports;
bool verbose;

void misuse(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  if (n_misuses == 0) vsnprintf(first_misuse, sizeof first_misuse, format, arguments);
  va_end(arguments);
  n_misuses++;
}

void *allocate(size_t size) {
  void *memory = calloc(1, size == 0 ? 1 : size);
  if (memory == NULL) abort();
  return memory;
}

char *copy(const char *bytes, size_t size) {
  char *text = allocate(size + 1);
  if (size > 0) memcpy(text, bytes, size);
  return text;
}

void *begin(enum kind kind, size_t size) {
  object *head = allocate(size);
  head->kind = kind;
  head->state = ALIVE;
  head->next = objects;
  objects = head;
  n_live[kind]++;
  return head;
}

bool is_live(const char *function, const void *pointer, enum kind kind) {
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

void end(const char *function, void *pointer, enum kind kind) {
  if (is_live(function, pointer, kind)) {
    ((object *)pointer)->state = DEAD;
    n_live[kind]--;
  }
}

TRITONSERVER_Error *new_error(TRITONSERVER_Error_Code code, const char *text) {
  TRITONSERVER_Error *error = begin(KIND_ERROR, sizeof *error);
  error->code = code;
  error->text = copy(text, strlen(text));
  return error;
}

TRITONSERVER_Error *fault(const char *function) {
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

void note(TRITONBACKEND_Request *request, char event) {
  if (request->n_events + 1 < sizeof request->events) request->events[request->n_events++] = event;
  pthread_cond_broadcast(&changed);
}
