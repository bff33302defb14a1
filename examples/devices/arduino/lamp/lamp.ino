// A lamp that obeys its shadow, for ESP32 and ESP8266 with PubSubClient and ArduinoJson 7 (library manager).
// PubSubClient publishes at QoS 0 and drops, without a word, what is larger than its buffer.
#include <ArduinoJson.h>
#include <PubSubClient.h>
#ifdef ESP8266
#include <ESP8266WiFi.h>
#else
#include <WiFi.h>
#endif

const char *WIFI_NAME = "...", *WIFI_PASSWORD = "...";
const char *HOST = "192.168.1.10";
const uint16_t PORT = 1883;
const String DEVICE_ID = "lamp-1";
const String SHADOW = "shadow/" + DEVICE_ID + "/";
const int PIN = 2;

WiFiClient network;
PubSubClient client(network);
bool on = false;
uint64_t seen = 0;  // the newest version that was obeyed over this connection
unsigned long nextTry = 0, pause = 1000;

void report() {
  String body = String("{\"state\":{\"reported\":{\"power\":\"") + (on ? "on" : "off") + "\"}},\"metadata\":false}";
  client.publish((SHADOW + "update").c_str(), body.c_str());
}

void obey(uint64_t version, JsonVariantConst delta) {
  if (version < seen) return;  // older than what was obeyed already
  seen = version;
  const char *power = delta["power"] | "";
  if (!strcmp(power, "on") || !strcmp(power, "off")) {
    on = !strcmp(power, "on");
    digitalWrite(PIN, on ? HIGH : LOW);
  }
  report();
}

void onMessage(char *name, byte *payload, unsigned int length) {
  if (length == 0) return;  // nothing is left to do
  JsonDocument filter, body;
  filter["version"] = filter["code"] = filter["message"] = true;
  filter["state"]["power"] = true;
  if (deserializeJson(body, payload, length, DeserializationOption::Filter(filter))) return;
  if (SHADOW + "delta" == name) {
    obey(body["version"], body["state"]);
  } else {
    Serial.printf("rejected: %d %s\n", body["code"] | 0, body["message"] | "?");
  }
}

void setup() {
  Serial.begin(115200);
  pinMode(PIN, OUTPUT);
  WiFi.begin(WIFI_NAME, WIFI_PASSWORD);
  client.setServer(HOST, PORT);
  client.setKeepAlive(60);
  client.setBufferSize(512);  // topic and message; see "Sizes and buffers" in docs/devices.md
  client.setCallback(onMessage);
}

void loop() {
  if (client.loop()) return;
  if (WiFi.status() != WL_CONNECTED || (long)(millis() - nextTry) < 0) return;
  if (client.connect(DEVICE_ID.c_str())) {
    pause = 1000;
    seen = 0;
    client.subscribe((SHADOW + "delta").c_str(), 1);
    client.subscribe((SHADOW + "update/rejected").c_str(), 1);
    report();  // the first report makes the shadow
  } else {
    nextTry = millis() + pause;
    pause = min(pause * 2, 60000UL);
  }
}
