/* A lamp that obeys its shadow, for ESP-IDF 5 with esp-mqtt and cJSON. esp-mqtt sends QoS 1 messages again after a
 * reconnect, and joins fragments only up to its buffer: see buffer.size. */
#include <string.h>
#include "cJSON.h"
#include "driver/gpio.h"
#include "esp_event.h"
#include "esp_log.h"
#include "esp_netif.h"
#include "mqtt_client.h"
#include "nvs_flash.h"
#include "protocol_examples_common.h"

#define DEVICE "lamp-1"
#define SHADOW "shadow/" DEVICE "/"
#define URL "mqtt://192.168.1.10:1883"
#define PIN GPIO_NUM_2

static const char *TAG = "lamp";
static bool on;
static double seen; /* the newest version that was obeyed over this connection */

static void report(esp_mqtt_client_handle_t client) {
    char body[96];
    snprintf(body, sizeof body, "{\"state\":{\"reported\":{\"power\":\"%s\"}},\"metadata\":false}", on ? "on" : "off");
    esp_mqtt_client_enqueue(client, SHADOW "update", body, 0, 1, 0, true);
}

static void obey(esp_mqtt_client_handle_t client, const cJSON *message) {
    const cJSON *delta = cJSON_GetObjectItemCaseSensitive(message, "state");
    const cJSON *version = cJSON_GetObjectItemCaseSensitive(message, "version");
    if (!cJSON_IsNumber(version) || version->valuedouble < seen) return; /* older than what was obeyed already */
    seen = version->valuedouble;
    const char *power = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(delta, "power"));
    if (power && (!strcmp(power, "on") || !strcmp(power, "off"))) {
        on = !strcmp(power, "on");
        gpio_set_level(PIN, on);
    }
    report(client);
}

static bool is(const esp_mqtt_event_t *event, const char *topic) {
    return event->topic_len == (int)strlen(topic) && !memcmp(event->topic, topic, event->topic_len);
}

static void receive(const esp_mqtt_event_t *event) {
    if (event->data_len != event->total_data_len) {
        ESP_LOGE(TAG, "a message of %d bytes is larger than buffer.size", event->total_data_len);
        return;
    }
    if (event->data_len == 0) return; /* nothing is left to do */
    cJSON *body = cJSON_ParseWithLength(event->data, event->data_len);
    if (!body) return;
    if (is(event, SHADOW "delta")) {
        obey(event->client, body);
    } else {
        ESP_LOGW(TAG, "%.*s: %.*s", event->topic_len, event->topic, event->data_len, event->data);
    }
    cJSON_Delete(body);
}

static void on_event(void *context, esp_event_base_t base, int32_t id, void *data) {
    const esp_mqtt_event_t *event = data;
    switch ((esp_mqtt_event_id_t)id) {
    case MQTT_EVENT_CONNECTED:
        seen = 0;
        esp_mqtt_client_subscribe(event->client, SHADOW "delta", 1);
        esp_mqtt_client_subscribe(event->client, SHADOW "update/rejected", 1);
        report(event->client); /* the first report makes the shadow */
        break;
    case MQTT_EVENT_DATA:
        receive(event);
        break;
    default:
        break;
    }
}

void app_main(void) {
    ESP_ERROR_CHECK(nvs_flash_init());
    ESP_ERROR_CHECK(esp_netif_init());
    ESP_ERROR_CHECK(esp_event_loop_create_default());
    gpio_set_direction(PIN, GPIO_MODE_OUTPUT);
    ESP_ERROR_CHECK(example_connect());
    const esp_mqtt_client_config_t config = {
        .broker.address.uri = URL,
        .credentials.client_id = DEVICE,
        .session.keepalive = 60,
        .buffer.size = 1024, /* topic and message; see "Sizes and buffers" in docs/devices.md */
        .network.reconnect_timeout_ms = 5000,
    };
    esp_mqtt_client_handle_t client = esp_mqtt_client_init(&config);
    esp_mqtt_client_register_event(client, ESP_EVENT_ANY_ID, on_event, NULL);
    esp_mqtt_client_start(client);
}
