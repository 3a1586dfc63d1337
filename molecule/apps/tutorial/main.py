"""The app of the tutorial that the project grew from, as its readers have typed it."""

from flask import Flask, render_template
import json

app = Flask(__name__)


@app.route('/', methods=['GET', 'HEAD',])
def hello_world():
    return render_template("index.html"), 200


@app.route('/api2', methods=['POST', 'GET',])
def api_json():
    json_response = {"server_status": 201, "description": "Hello from python",}
    return json.dumps(json_response, indent=2), 201, {'Content-Type':'application/json'}


if __name__ == '__main__':
    app.run(debug=True, host='0.0.0.0') # 5000 port
