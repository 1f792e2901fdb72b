/* The fake's metrics, which it has where HAS_METRICS says so.
 *
 * As the real ones, metrics of one name and with the same labels are one series.
 * It is counted for each object of a family, and ends at the first 0: whoever
 * uses it after that is seen.
 */
#include "fake.h"

#if HAS_METRICS

TRITONSERVER_Parameter *TRITONSERVER_ParameterNew(const char *name, const TRITONSERVER_ParameterType type,
                                                  const void *value) {
  pthread_mutex_lock(&lock);
  if (type != TRITONSERVER_PARAMETER_STRING) misuse("TRITONSERVER_ParameterNew: a label of kind %d", (int)type);
  TRITONSERVER_Parameter *label = begin(KIND_LABEL, sizeof *label);
  label->name = copy(name, strlen(name));
  label->value = copy(value, strlen(value));
  pthread_mutex_unlock(&lock);
  return label;
}

void TRITONSERVER_ParameterDelete(TRITONSERVER_Parameter *label) {
  pthread_mutex_lock(&lock);
  end("TRITONSERVER_ParameterDelete", label, KIND_LABEL);
  pthread_mutex_unlock(&lock);
}

TRITONSERVER_Error *TRITONSERVER_MetricFamilyNew(TRITONSERVER_MetricFamily **family,
                                                 const TRITONSERVER_MetricKind kind, const char *name,
                                                 const char *description) {
  pthread_mutex_lock(&lock);
  TRITONSERVER_Error *due = fault("TRITONSERVER_MetricFamilyNew");
  if (kind != TRITONSERVER_METRIC_KIND_GAUGE || description[0] == 0)
    misuse("TRITONSERVER_MetricFamilyNew: '%s' of kind %d", name, (int)kind);
  if (due == NULL) {
    *family = allocate(sizeof **family);
    (*family)->name = copy(name, strlen(name));
  }
  pthread_mutex_unlock(&lock);
  return due;
}

static series *find_series(const char *key) {
  for (object *head = objects; head != NULL; head = head->next)
    if (head->kind == KIND_SERIES && head->state == ALIVE && strcmp(((series *)head)->key, key) == 0)
      return (series *)head;
  return NULL;
}

TRITONSERVER_Error *TRITONSERVER_MetricNew(TRITONSERVER_Metric **metric, TRITONSERVER_MetricFamily *family,
                                           const TRITONSERVER_Parameter **labels, const uint64_t label_count) {
  pthread_mutex_lock(&lock);
  TRITONSERVER_Error *due = fault("TRITONSERVER_MetricNew");
  if (due == NULL) {
    char key[MAX_TEXT];
    int used = snprintf(key, sizeof key, "%s{", family->name);
    for (uint64_t index = 0; index < label_count; index++) {
      if (!is_live("TRITONSERVER_MetricNew", labels[index], KIND_LABEL)) continue;
      used += snprintf(key + used, sizeof key - (size_t)used, "%s%s=%s", index > 0 ? "," : "",
                       labels[index]->name, labels[index]->value);
    }
    snprintf(key + used, sizeof key - (size_t)used, "}");
    *metric = begin(KIND_METRIC, sizeof **metric);
    (*metric)->family = family;
    (*metric)->series = find_series(key);
    if ((*metric)->series == NULL) {
      (*metric)->series = begin(KIND_SERIES, sizeof *(*metric)->series);
      (*metric)->series->key = copy(key, strlen(key));
    }
  }
  pthread_mutex_unlock(&lock);
  return due;
}

static bool is_used(const series *shown, const TRITONSERVER_MetricFamily *family) {
  for (object *head = objects; head != NULL; head = head->next) {
    const TRITONSERVER_Metric *metric = (TRITONSERVER_Metric *)head;
    if (head->kind == KIND_METRIC && head->state == ALIVE && metric->series == shown && metric->family == family)
      return true;
  }
  return false;
}

TRITONSERVER_Error *TRITONSERVER_MetricDelete(TRITONSERVER_Metric *metric) {
  ENTER(TRITONSERVER_MetricDelete, metric, KIND_METRIC);
  end("TRITONSERVER_MetricDelete", metric, KIND_METRIC);
  if (!is_used(metric->series, metric->family)) end("TRITONSERVER_MetricDelete", metric->series, KIND_SERIES);
  LEAVE;
}

TRITONSERVER_Error *TRITONSERVER_MetricIncrement(TRITONSERVER_Metric *metric, double value) {
  ENTER(TRITONSERVER_MetricIncrement, metric, KIND_METRIC);
  if (is_live("TRITONSERVER_MetricIncrement", metric->series, KIND_SERIES)) metric->series->value += value;
  LEAVE;
}

#endif

#pragma GCC visibility push(default)

/* All series and their values, one a line, the newest first. */
const char *fake_series(void) {
  static char text[16 * MAX_TEXT];
  pthread_mutex_lock(&lock);
  size_t used = 0;
  text[0] = 0;
  for (object *head = objects; head != NULL; head = head->next)
    if (head->kind == KIND_SERIES && head->state == ALIVE && used < sizeof text)
      used += (size_t)snprintf(text + used, sizeof text - used, "%s %g\n", ((series *)head)->key,
                               ((series *)head)->value);
  pthread_mutex_unlock(&lock);
  return text;
}

#pragma GCC visibility pop
