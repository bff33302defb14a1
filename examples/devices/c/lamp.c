/* A lamp that obeys its shadow, with libmosquitto and cJSON (Debian: libmosquitto-dev, libcjson-dev):
 *
 *     cc lamp.c -o lamp $(pkg-config --cflags --libs libmosquitto libcjson) && ./lamp [DEVICE] [HOST] [PORT]
 */
#include <cjson/cJSON.h>
#include <mosquitto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *device = "lamp-1";
static const char *power = "off";
static double seen; /* the newest version that was obeyed */

static const char *topic(const char *end) {
    static char buffer[256];
    snprintf(buffer, sizeof buffer, "shadow/%s/%s", device, end);
    return buffer;
}

static void report(struct mosquitto *client) {
    char body[128];
    int length = snprintf(body, sizeof body, "{\"state\":{\"reported\":{\"power\":\"%s\"}}}", power);
    mosquitto_publish(client, NULL, topic("update"), length, body, 1, false);
}

static void obey(struct mosquitto *client, const cJSON *message, const cJSON *delta) {
    const cJSON *version = cJSON_GetObjectItemCaseSensitive(message, "version");
    if (!cJSON_IsNumber(version) || version->valuedouble < seen) return; /* older than what was obeyed already */
    seen = version->valuedouble;
    const cJSON *wanted = cJSON_GetObjectItemCaseSensitive(delta, "power");
    if (cJSON_IsString(wanted) && (!strcmp(wanted->valuestring, "on") || !strcmp(wanted->valuestring, "off"))) {
        power = strcmp(wanted->valuestring, "on") ? "off" : "on";
        printf("power %s\n", power);
        fflush(stdout);
    }
    report(client);
}

static void on_connect(struct mosquitto *client, void *context, int code) {
    (void)context;
    if (code != 0) {
        fprintf(stderr, "refused: %s\n", mosquitto_connack_string(code));
        return;
    }
    char delta[256], rejected[256], get[256];
    snprintf(delta, sizeof delta, "%s", topic("update/delta"));
    snprintf(rejected, sizeof rejected, "%s", topic("update/rejected"));
    snprintf(get, sizeof get, "%s", topic("get/+"));
    char *filters[] = {delta, rejected, get};
    mosquitto_subscribe_multiple(client, NULL, 3, filters, 1, 0, NULL);
}

static void on_subscribe(struct mosquitto *client, void *context, int id, int count, const int *granted) {
    (void)context, (void)id, (void)count, (void)granted;
    /* Only now: what changes from here on is heard as a delta. */
    mosquitto_publish(client, NULL, topic("get"), 0, NULL, 1, false);
}

static void on_message(struct mosquitto *client, void *context, const struct mosquitto_message *message) {
    (void)context;
    cJSON *body = cJSON_ParseWithLength(message->payload, message->payloadlen);
    if (!body) return;
    const cJSON *state = cJSON_GetObjectItemCaseSensitive(body, "state");
    const cJSON *code = cJSON_GetObjectItemCaseSensitive(body, "code");
    if (!strcmp(message->topic, topic("update/delta"))) {
        obey(client, body, state);
    } else if (!strcmp(message->topic, topic("get/accepted"))) {
        obey(client, body, cJSON_GetObjectItemCaseSensitive(state, "delta"));
    } else if (!strcmp(message->topic, topic("get/rejected")) && code && code->valueint == 404) {
        report(client); /* the first report makes the shadow */
    } else {
        fprintf(stderr, "%s %.*s\n", message->topic, message->payloadlen, (char *)message->payload);
    }
    cJSON_Delete(body);
}

int main(int count, char **arguments) {
    const char *host = count > 2 ? arguments[2] : "127.0.0.1";
    int port = count > 3 ? atoi(arguments[3]) : 1883;
    if (count > 1) device = arguments[1];
    mosquitto_lib_init();
    struct mosquitto *client = mosquitto_new(device, true, NULL);
    if (!client) return 1;
    mosquitto_connect_callback_set(client, on_connect);
    mosquitto_subscribe_callback_set(client, on_subscribe);
    mosquitto_message_callback_set(client, on_message);
    mosquitto_reconnect_delay_set(client, 1, 60, true);
    int result = mosquitto_connect(client, host, port, 60);
    if (result == MOSQ_ERR_SUCCESS) result = mosquitto_loop_forever(client, -1, 1);
    fprintf(stderr, "ended: %s\n", mosquitto_strerror(result));
    mosquitto_destroy(client);
    mosquitto_lib_cleanup();
    return 1;
}
