/* What paho for C, in one version of MQTT, sees of the server.
 *
 * Usage: paho_c_client URL 3.1.1|5
 *
 * It takes the first packet of each WebSocket message and loses what follows in it, so every step here comes after
 * several packets that the server sends at once. Every wait is for a thing, with a deadline no healthy machine reaches.
 */

#include <MQTTClient.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGES 50

static MQTTClient client;
static int v5;

static void fail(const char *what, int code) {
    printf("%s: %d\n", what, code);
    exit(1);
}

static int deadline_ms(void) {
    const char *seconds = getenv("UMBRA_TEST_DEADLINE");
    return (seconds ? atoi(seconds) : 120) * 1000;
}

static void subscribe(char *filter, int qos) {
    if (v5) {
        MQTTResponse response = MQTTClient_subscribe5(client, filter, qos, NULL, NULL);
        if (response.reasonCode != qos) fail("subscribe", response.reasonCode);
        MQTTResponse_free(response);
    } else {
        int code = MQTTClient_subscribe(client, filter, qos);
        if (code != MQTTCLIENT_SUCCESS) fail("subscribe", code);
    }
}

static void publish(char *topic, char *payload, int qos) {
    MQTTClient_message message = MQTTClient_message_initializer;
    message.payload = payload;
    message.payloadlen = (int)strlen(payload);
    message.qos = qos;
    MQTTClient_deliveryToken token;
    int code;
    if (v5) {
        MQTTResponse response = MQTTClient_publishMessage5(client, topic, &message, &token);
        code = response.reasonCode;
        MQTTResponse_free(response);
    } else {
        code = MQTTClient_publishMessage(client, topic, &message, &token);
    }
    if (code != MQTTCLIENT_SUCCESS) fail("publish", code);
    code = MQTTClient_waitForCompletion(client, token, deadline_ms());
    if (code != MQTTCLIENT_SUCCESS) fail("acknowledgement", code);
}

static void expect(const char *expected) {
    char *topic = NULL;
    int length;
    MQTTClient_message *message = NULL;
    int code = MQTTClient_receive(client, &topic, &length, &message, deadline_ms());
    if (code != MQTTCLIENT_SUCCESS && code != MQTTCLIENT_TOPICNAME_TRUNCATED) fail(expected, code);
    if (message == NULL) fail(expected, -1);
    if (strcmp(topic, expected) != 0) {
        printf("%s in the place of %s\n", topic, expected);
        exit(1);
    }
    MQTTClient_freeMessage(&message);
    MQTTClient_free(topic);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    v5 = strcmp(argv[2], "5") == 0;
    MQTTClient_createOptions create = MQTTClient_createOptions_initializer;
    create.MQTTVersion = v5 ? MQTTVERSION_5 : MQTTVERSION_3_1_1;
    int code = MQTTClient_createWithOptions(&client, argv[1], "paho-c", MQTTCLIENT_PERSISTENCE_NONE, NULL, &create);
    if (code != MQTTCLIENT_SUCCESS) fail("create", code);
    MQTTClient_connectOptions options = MQTTClient_connectOptions_initializer;
    MQTTClient_connectOptions options5 = MQTTClient_connectOptions_initializer5;
    if (v5) {
        options5.cleanstart = 1;
        MQTTResponse response = MQTTClient_connect5(client, &options5, NULL, NULL);
        code = response.reasonCode;
        MQTTResponse_free(response);
    } else {
        options.cleansession = 1;
        options.MQTTVersion = MQTTVERSION_3_1_1;
        code = MQTTClient_connect(client, &options);
    }
    if (code != MQTTCLIENT_SUCCESS) fail("connect", code);

    subscribe("shadow/lamp/update/+", 1);
    for (int n = 0; n < MESSAGES; n++) {
        char update[100];
        snprintf(update, sizeof update, "{\"state\":{\"desired\":{\"n\":\"%s %d\"}}}", argv[2], n);
        publish("shadow/lamp/update", update, n % 3);
        expect("shadow/lamp/update/delta");
        expect("shadow/lamp/update/documents");
        expect("shadow/lamp/update/accepted");
    }

    /* Larger than what the server writes at once. */
    subscribe("large", 1);
    char *large = malloc(100001);
    memset(large, 'x', 100000);
    large[100000] = 0;
    for (int n = 0; n < 3; n++) {
        publish("large", large, 1);
        expect("large");
    }
    free(large);
    code = MQTTClient_disconnect(client, 1000);
    if (code != MQTTCLIENT_SUCCESS) fail("disconnect", code);
    MQTTClient_destroy(&client);
    puts("all of it");
    return 0;
}
