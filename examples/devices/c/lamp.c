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
static double seen; /* the newest version that was obeyed over this connection */

static const char *topic(const char *end) {
    static char buffer[256];
    snprintf(buffer, sizeof buffer, "shadow/%s/%s", device, end);
    return buffer;
}

static void report(struct mosquitto *client) {
    char body[128];
    int length = snprintf(body, sizeof body, "{\"state\":{\"reported\":{\"power\":\"%s\"}},\"metadata\":false}", power);
    mosquitto_publish(client, NULL, topic("update"), length, body, 1, false);
}

static void obey(struct mosquitto *client, const cJSON *message) {
    const cJSON *delta = cJSON_GetObjectItemCaseSensitive(message, "state");
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
    seen = 0;
    mosquitto_subscribe(client, NULL, topic("delta"), 1);
    mosquitto_subscribe(client, NULL, topic("update/rejected"), 1);
    report(client); /* the first report makes the shadow */
}

static void on_message(struct mosquitto *client, void *context, const struct mosquitto_message *message) {
    (void)context;
    if (message->payloadlen == 0) return; /* nothing is left to do */
    cJSON *body = cJSON_ParseWithLength(message->payload, message->payloadlen);
    if (!body) return;
    if (!strcmp(message->topic, topic("delta"))) {
        obey(client, body);
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
    mosquitto_message_callback_set(client, on_message);
    mosquitto_reconnect_delay_set(client, 1, 60, true);
    int result = mosquitto_connect(client, host, port, 60);
    if (result == MOSQ_ERR_SUCCESS) result = mosquitto_loop_forever(client, -1, 1);
    fprintf(stderr, "ended: %s\n", mosquitto_strerror(result));
    mosquitto_destroy(client);
    mosquitto_lib_cleanup();
    return 1;
}
